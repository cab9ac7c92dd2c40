import assert from "node:assert/strict"
import { createHash } from "node:crypto"
import { beforeEach, describe, test } from "node:test"

import { identify, matchesSample } from "../../service/web/resumable.js"
import { blockDatabase, installDatabase } from "./support/storages.js"

const DAY_MILLISECONDS = 24 * 3600 * 1000
const CONTENT = Buffer.from("0123456789abcdef")
let loads = 0

/**
 * Load the module as a page does that is opened or reloaded: without what an earlier one had in
 * memory.
 * @returns {Promise<typeof import("../../service/web/resumable.js")>}
 */
function load() {
  return import(`../../service/web/resumable.js?load=${++loads}`)
}

/**
 * @param {string} path
 * @param {{id?: string, at?: number, size?: number}} members
 */
function makeEntry(path, { id = `id of ${path}`, at = Date.now(), size = 16 } = {}) {
  const file = new File([CONTENT], path, { lastModified: 1000 })
  return { identity: identify(file, path), path, size, id, at, sample: null }
}

/** @param {Uint8Array} bytes */
function digest(bytes) {
  return createHash("sha256").update(bytes).digest("hex")
}

describe("an entry", () => {
  /** @type {Map<string, any>} */
  let rows

  beforeEach(() => {
    rows = installDatabase()
  })

  test("lasts through a reload", async () => {
    const entry = { ...makeEntry("a.txt"), sample: { start: 0, end: 16, sha256: digest(CONTENT) } }
    await (await load()).remember(entry)
    const reloaded = await load()
    assert.deepEqual(await reloaded.recall(entry.identity), entry)
    assert.deepEqual(await reloaded.recallAll(), [entry])
  })

  test("replaces an earlier one of the same file", async () => {
    const page = await load()
    await page.remember(makeEntry("a.txt", { id: "first" }))
    await page.remember(makeEntry("a.txt", { id: "second" }))
    for (const { recallAll } of [page, await load()]) {
      assert.deepEqual(
        (await recallAll()).map(({ id }) => id),
        ["second"],
      )
    }
  })

  test("is forgotten for good", async () => {
    const page = await load()
    const entry = makeEntry("a.txt")
    await page.remember(entry)
    await page.forget(entry.identity)
    assert.equal(await page.recall(entry.identity), undefined)
    assert.deepEqual(await (await load()).recallAll(), [])
  })

  test("is deleted after eight days", async () => {
    const page = await load()
    const now = Date.now()
    await page.remember(makeEntry("old.txt", { at: now - 8 * DAY_MILLISECONDS - 1000 }))
    await page.remember(makeEntry("new.txt", { at: now - 7 * DAY_MILLISECONDS }))
    const reloaded = await load()
    assert.deepEqual(
      (await reloaded.recallAll()).map(({ path }) => path),
      ["new.txt"],
    )
    await reloaded.forget("")
    assert.equal(rows.size, 1)
  })

  test("comes before older ones in the list", async () => {
    const page = await load()
    for (const [path, at] of /** @type {[string, number][]} */ ([
      ["b", 2],
      ["c", 3],
      ["a", 1],
    ])) {
      await page.remember(makeEntry(path, { at }))
    }
    const paths = (await page.recallAll()).map(({ path }) => path)
    assert.deepEqual(paths, ["c", "b", "a"])
  })

  test("is found for another version of the file at its path", async () => {
    const page = await load()
    const entry = makeEntry("folder/a.txt")
    await page.remember(entry)
    const other = identify(new File(["longer than before"], "a.txt"), "folder/a.txt")
    assert.deepEqual(await page.recallOther("folder/a.txt", other), entry)
    assert.equal(await page.recallOther("folder/a.txt", entry.identity), undefined)
    assert.equal(await page.recallOther("a.txt", other), undefined)
    assert.equal(await page.recall(other), undefined)
  })

  test("lasts until the page is closed if there is no IndexedDB", async () => {
    blockDatabase()
    const page = await load()
    const entry = makeEntry("a.txt")
    await page.remember(entry)
    assert.deepEqual(await page.recall(entry.identity), entry)
    assert.deepEqual(await (await load()).recallAll(), [])
    await page.forget(entry.identity)
    assert.deepEqual(await page.recallAll(), [])
  })
})

test("files are told apart by path, size and modification time", () => {
  const file = new File(["abc"], "a.txt", { lastModified: 1000 })
  const identities = [
    identify(file, "a.txt"),
    identify(file, "folder/a.txt"),
    identify(new File(["abcd"], "a.txt", { lastModified: 1000 }), "a.txt"),
    identify(new File(["abc"], "a.txt", { lastModified: 1001 }), "a.txt"),
    identify(new File(["abc"], "a", { lastModified: 1000 }), 'a",3'),
  ]
  assert.equal(new Set(identities).size, identities.length)
  assert.equal(identify(new File(["xyz"], "a.txt", { lastModified: 1000 }), "a.txt"), identities[0])
})

describe("the sample", () => {
  const file = new File([CONTENT], "a.txt")
  const sample = { start: 4, end: 8, sha256: digest(CONTENT.subarray(4, 8)) }

  test("matches the same bytes", async () => {
    assert.equal(await matchesSample(file, sample), true)
    assert.equal(await matchesSample(new File(["xxxx4567xxxx"], "a.txt"), sample), true)
  })

  test("does not match other bytes, nor a file that is now shorter", async () => {
    assert.equal(await matchesSample(new File(["0123x567"], "a.txt"), sample), false)
    assert.equal(await matchesSample(new File(["012345"], "a.txt"), sample), false)
    assert.equal(await matchesSample(new File([], "a.txt"), sample), false)
  })

  test("matches every file if there is none", async () => {
    assert.equal(await matchesSample(file, null), true)
  })
})
