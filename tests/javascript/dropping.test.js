import assert from "node:assert/strict"
import { describe, test } from "node:test"

import { listChosen, readDropped } from "../../service/web/dropping.js"

/** @typedef {{[name: string]: Tree | string | null}} Tree folders, texts of files, or unreadable */

/** Chromium gives at most so many entries of a folder at once. */
const PIECE = 100

/**
 * Return the entry of the File and Directory Entries API for a file or a folder.
 * @param {string} fullPath
 * @param {Tree | string | null} content
 * @returns {any}
 */
function makeEntry(fullPath, content) {
  const name = fullPath.split("/").at(-1) ?? ""
  if (content === null || typeof content === "string") {
    const file = (/** @type {any} */ resolve, /** @type {any} */ reject) => {
      if (content === null) reject(new DOMException("no permission", "NotReadableError"))
      else resolve(new File([content], name))
    }
    return { isDirectory: false, fullPath, file }
  }
  const createReader = () => {
    const rest = Object.entries(content).map(([inner, tree]) =>
      makeEntry(`${fullPath}/${inner}`, tree),
    )
    return {
      readEntries: (/** @type {any} */ resolve, /** @type {any} */ reject) => {
        if ("unreadable" in content) reject(new DOMException("gone", "NotFoundError"))
        else setImmediate(() => resolve(rest.splice(0, PIECE)))
      },
    }
  }
  return { isDirectory: true, fullPath, createReader }
}

/**
 * Return what a browser gives for a drop. As in a browser, it is empty after the event.
 * @param {Tree} tree
 * @returns {any}
 */
function drop(tree) {
  const items = Object.entries(tree).map(([name, content]) => ({
    kind: "file",
    webkitGetAsEntry: () => makeEntry(`/${name}`, content),
    getAsFile: () => (typeof content === "string" ? new File([content], name) : null),
  }))
  const transfer = { items: [{ kind: "string" }, ...items] }
  queueMicrotask(() => (transfer.items = []))
  return transfer
}

/**
 * Return the batches of paths that a drop gives, and what could not be read.
 * @param {any} transfer
 */
async function read(transfer) {
  const batches = /** @type {string[][]} */ ([])
  const unreadable = await readDropped(transfer, (chosen) =>
    batches.push(chosen.map(({ path }) => path)),
  )
  return { batches, paths: batches.flat(), unreadable }
}

describe("dropped files", () => {
  test("have their names as paths", async () => {
    const { paths, unreadable } = await read(drop({ "a.txt": "1", "größe €.txt": "" }))
    assert.deepEqual(paths, ["a.txt", "größe €.txt"])
    assert.deepEqual(unreadable, [])
  })

  test("have their paths below the dropped folder", async () => {
    const tree = { photos: { "1.jpg": "1", may: { "2.jpg": "2", empty: {} } }, "b.txt": "b" }
    const { paths } = await read(drop(tree))
    assert.deepEqual(paths, ["photos/1.jpg", "photos/may/2.jpg", "b.txt"])
  })

  test("are read whole if the browser gives a folder in pieces", async () => {
    const many = Object.fromEntries(Array.from({ length: 450 }, (_, number) => [number, "x"]))
    const { batches, paths } = await read(drop({ many }))
    assert.deepEqual(
      batches.map(({ length }) => length),
      [200, 200, 50],
    )
    assert.equal(new Set(paths).size, 450)
  })

  test("give no empty batch", async () => {
    const many = Object.fromEntries(Array.from({ length: 200 }, (_, number) => [number, "x"]))
    assert.equal((await read(drop({ many }))).batches.length, 1)
    assert.equal((await read(drop({ empty: {} }))).batches.length, 0)
  })

  test("that cannot be read are named, and the others are taken", async () => {
    const tree = {
      a: { "1.txt": "1", locked: null, inner: { unreadable: null }, "2.txt": "2" },
      "b.txt": "b",
    }
    const { paths, unreadable } = await read(drop(tree))
    assert.deepEqual(paths, ["a/1.txt", "a/2.txt", "b.txt"])
    assert.deepEqual(unreadable, ["a/locked", "a/inner"])
  })

  test("are taken by browsers without entries, or without one for a file", async () => {
    const file = new File(["1"], "a.txt")
    const items = [
      { kind: "file", getAsFile: () => file },
      { kind: "file", getAsFile: () => file, webkitGetAsEntry: () => null },
      { kind: "file", getAsFile: () => null },
    ]
    assert.deepEqual((await read({ items })).paths, ["a.txt", "a.txt"])
  })
})

test("chosen files have the paths of their folder, or their names", () => {
  const plain = new File(["1"], "a.txt")
  const inner = Object.assign(new File(["1"], "1.jpg"), { webkitRelativePath: "photos/1.jpg" })
  const chosen = listChosen(/** @type {any} */ ([plain, inner]))
  assert.deepEqual(chosen, [
    { file: plain, path: "a.txt" },
    { file: inner, path: "photos/1.jpg" },
  ])
})
