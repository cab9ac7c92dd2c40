import assert from "node:assert/strict"
import { createHash } from "node:crypto"
import { describe, test } from "node:test"

// This is imported first, because a module of the page opens the database when it is imported.
import { rows } from "./support/database.js"

import { recall } from "../../service/web/resumable.js"
import { Upload } from "../../service/web/upload.js"
import { Assay, refuse, Store } from "./support/assay.js"
import { until } from "./support/clocks.js"

/** @typedef {import("./support/assay.js").Prepared} Prepared */

const SIGNED = { method: "PUT", url: "http://store.test/f1", headers: {} }
const DECLARED = { status: 201, json: { file: { id: "f1" }, upload: SIGNED } }
const VERIFYING = { json: { id: "f1", state: "verifying" } }
const READY = { json: { id: "f1", state: "ready", hash: "9f86" } }
const SENT = ["POST /files", "POST /files/f1/complete"]
const CONTENT = "0123456789"
let files = 0

/** @param {string} text */
function digest(text) {
  return createHash("sha256").update(text).digest("hex")
}

/**
 * Return a server that accepts a file, and a store. `answers` replace those of the server.
 * @param {Record<string, Prepared | Prepared[]>} answers
 * @param {number[]} statuses of the store
 */
function start(answers = {}, statuses = []) {
  const server = new Assay({
    "POST /files": DECLARED,
    "POST /files/f1/upload": { json: { upload: SIGNED } },
    "POST /files/f1/complete": VERIFYING,
    "DELETE /files/f1": { status: 204 },
    ...answers,
  })
  return { server, store: new Store(statuses) }
}

/**
 * Return an upload, the states that it passes through, and its notes while bytes are sent. Each
 * path is used only once, because the entries of earlier uploads stay.
 * @param {ReturnType<typeof start>} place
 * @param {{text?: string, path?: string, time?: number}} options
 */
function choose({ server, store }, { text = CONTENT, path = `${++files}.txt`, time = 1 } = {}) {
  const name = path.split("/").at(-1) ?? ""
  const file = new File([text], name, { lastModified: time, type: "text/plain" })
  const upload = new Upload(server.api, file, path, store.deliver)
  const states = /** @type {string[]} */ ([])
  const notes = /** @type {string[]} */ ([])
  upload.addEventListener("change", () => {
    if (states.at(-1) !== upload.state) states.push(upload.state)
    if (upload.state === "sending") notes.push(upload.note)
  })
  return { upload, states, notes, path }
}

describe("a new upload", () => {
  test("is declared, sent and completed, and waits for the verdict", async () => {
    const place = start()
    const { upload, states } = choose(place, { path: "folder/inner/a.txt" })
    await upload.run()
    assert.deepEqual(states, ["starting", "sending", "proving"])
    assert.deepEqual(place.server.lines, SENT)
    assert.equal(await place.store.puts[0].body.text(), CONTENT)
    const [declared] = place.server.received
    assert.deepEqual(declared.body, {
      filename: "a.txt",
      size: 10,
      content_type: "text/plain",
      sha256: digest(CONTENT),
      metadata: { path: "folder/inner/a.txt" },
    })
    assert.match(declared.headers.get("Idempotency-Key") ?? "", /^[0-9a-f]{32}$/)
    upload.settle({ state: "ready", hash: "9f86" })
    assert.equal(upload.state, "ready")
    assert.equal(upload.hash, "9f86")
  })

  test("without a folder or a type declares neither", async () => {
    const place = start()
    const file = new File([""], "empty")
    const upload = new Upload(place.server.api, file, "empty", place.store.deliver)
    await upload.run()
    assert.deepEqual(place.server.bodies("POST /files")[0], {
      filename: "empty",
      size: 0,
      sha256: digest(""),
    })
    assert.equal(upload.state, "proving")
  })

  test("is declared with the same key until a response arrives", async () => {
    const place = start({ "POST /files": [{ status: 503 }, { status: 500 }, DECLARED] })
    const { upload } = choose(place)
    await upload.run()
    const keys = place.server.received
      .filter(({ line }) => line === "POST /files")
      .map(({ headers }) => headers.get("Idempotency-Key"))
    assert.equal(keys.length, 3)
    assert.equal(new Set(keys).size, 1)
    assert.equal(upload.hindrance, "")
  })

  test("is remembered before its first byte is sent", async () => {
    const place = start()
    const { upload } = choose(place)
    upload.deliver = async () => {
      const entry = await recall(upload.identity)
      assert.equal(entry?.id, "f1")
      assert.deepEqual(entry?.sample, { start: 0, end: 10, sha256: digest(CONTENT) })
      return { status: 200, code: "" }
    }
    await upload.run()
    assert.equal(upload.note, "")
    assert.equal(upload.state, "proving")
  })

  test("fails if the server refuses the declaration", async () => {
    const problem = { detail: "size: must be at most 5" }
    const place = start({ "POST /files": { status: 422, json: problem } })
    const { upload, states } = choose(place)
    await upload.run()
    assert.deepEqual(states, ["starting", "failed"])
    assert.match(upload.note, /must be at most 5/)
  })

  test("fails if the store refuses the bytes", async () => {
    const place = start({}, [400])
    const { upload, states } = choose(place)
    await upload.run()
    assert.deepEqual(states, ["starting", "sending", "failed"])
    assert.deepEqual(place.server.lines, ["POST /files"])
  })

  test("says why it waits, and no longer when a refusal ends the wait", async () => {
    const place = start({
      "POST /files/f1/upload": [{ status: 503 }, refuse(410, "gone")],
    })
    const { upload } = choose(place)
    const hindrances = /** @type {string[]} */ ([])
    upload.addEventListener("change", () => hindrances.push(upload.hindrance))
    upload.id = "f1"
    await upload.run()
    assert.ok(hindrances.some((hindrance) => hindrance !== ""))
    assert.equal(upload.state, "proving")
    const waiting = hindrances.findLastIndex((hindrance) => hindrance !== "")
    assert.equal(hindrances[waiting + 1], "")
  })
})

describe("a file that is chosen again", () => {
  /**
   * Send a file until it is interrupted, and choose it again. `state` is its state at the server.
   * @param {string} state
   * @param {{text?: string, time?: number, statuses?: number[]}} again
   */
  async function chooseAgain(state, { text, time } = {}) {
    const first = start({}, [400])
    const { upload, path } = choose(first)
    await upload.run()
    const place = start({ "GET /files/f1/metadata": { json: { id: "f1", state, hash: "9f86" } } })
    return { ...place, ...choose(place, { path, text, time }) }
  }

  test("continues its upload if it is unchanged", async () => {
    const { server, store, upload } = await chooseAgain("pending")
    await upload.run()
    assert.deepEqual(server.lines, [
      "GET /files/f1/metadata",
      "POST /files/f1/upload",
      "POST /files/f1/complete",
    ])
    assert.equal(store.puts.length, 1)
    assert.equal(upload.state, "proving")
  })

  test("is not sent again if the server has it", async () => {
    const { server, store, upload } = await chooseAgain("ready")
    await upload.run()
    assert.deepEqual(server.lines, ["GET /files/f1/metadata"])
    assert.equal(store.puts.length, 0)
    assert.equal(upload.state, "ready")
    assert.equal(upload.wasThere, true)
    assert.equal(upload.hash, "9f86")
    assert.equal(upload.sent, 10)
  })

  test("is not sent again while the server verifies it", async () => {
    const { server, store, upload } = await chooseAgain("verifying")
    server.answers.set("POST /files/f1/upload", [refuse(409, "already-uploaded")])
    await upload.run()
    assert.equal(store.puts.length, 0)
    assert.equal(upload.state, "proving")
  })

  test("starts as a new file if its bytes have changed", async () => {
    const { server, upload, notes } = await chooseAgain("pending", { text: "9876543210" })
    await upload.run()
    assert.deepEqual(server.lines, ["GET /files/f1/metadata", "DELETE /files/f1", ...SENT])
    assert.match(notes[0], /changed/)
    assert.equal(upload.state, "proving")
  })

  test("starts as a new file if its time has changed", async () => {
    const { server, upload, notes } = await chooseAgain("pending", { time: 2 })
    await upload.run()
    assert.deepEqual(server.lines, SENT)
    assert.match(notes[0], /changed/)
  })

  for (const state of ["rejected", "deleted", "expired", "damaged"]) {
    test(`starts as a new file if the earlier one is ${state}`, async () => {
      const { server, upload } = await chooseAgain(state)
      await upload.run()
      assert.deepEqual(server.lines, ["GET /files/f1/metadata", ...SENT])
    })
  }

  test("starts as a new file if the server no longer has it", async () => {
    const { server, upload } = await chooseAgain("")
    const gone = [{ status: 503 }, refuse(404, "not-found")]
    server.answers.set("GET /files/f1/metadata", gone)
    const hindrances = /** @type {string[]} */ ([])
    upload.addEventListener("change", () => {
      if (upload.state === "sending") hindrances.push(upload.hindrance)
    })
    await upload.run()
    assert.deepEqual(server.lines.slice(2), SENT)
    assert.deepEqual(new Set(hindrances), new Set([""]))
  })
})

describe("the completion", () => {
  for (const kind of ["incomplete-parts", "not-uploaded"]) {
    test(`sends the bytes again at ${kind}`, async () => {
      const place = start({ "POST /files/f1/complete": [refuse(409, kind), VERIFYING] })
      const { upload, states } = choose(place)
      await upload.run()
      assert.deepEqual(place.server.lines, [
        ...SENT,
        "POST /files/f1/upload",
        "POST /files/f1/complete",
      ])
      assert.equal(place.store.puts.length, 2)
      assert.deepEqual(states, ["starting", "sending", "proving", "sending", "proving"])
    })
  }

  test("declares the file again if the store lost the upload", async () => {
    const place = start({ "POST /files/f1/complete": [refuse(409, "upload-lost"), VERIFYING] })
    const { upload } = choose(place)
    await upload.run()
    assert.deepEqual(place.server.lines, [...SENT, ...SENT])
    assert.equal(upload.state, "proving")
  })

  test("fails if the upload is lost again and again", async () => {
    const place = start({ "POST /files/f1/complete": refuse(409, "upload-lost") })
    const { upload } = choose(place)
    await upload.run()
    assert.equal(place.store.puts.length, 4)
    assert.equal(upload.state, "failed")
  })

  test("gives the verdict at once if there is one", async () => {
    const { upload } = choose(start({ "POST /files/f1/complete": READY }))
    await upload.run()
    assert.equal(upload.state, "ready")
    assert.equal(upload.hash, "9f86")
  })
})

describe("a verdict", () => {
  /** Return an upload that waits for its verdict. */
  async function prove() {
    const chosen = choose(start())
    await chosen.upload.run()
    return chosen
  }

  test("is applied once, and a later one is ignored", async () => {
    const { upload, states } = await prove()
    upload.settle({ state: "verifying" })
    const rejection = { reason: "size-mismatch", detail: "11 bytes, not 10" }
    upload.settle({ state: "rejected", rejection })
    upload.settle({ state: "ready", hash: "9f86" })
    assert.deepEqual(states, ["starting", "sending", "proving", "rejected"])
    assert.match(upload.note, /11 bytes, not 10/)
    assert.equal(upload.hash, "")
  })

  for (const state of ["rejected", "deleted", "expired"]) {
    test(`that is ${state} is not continued after a reload`, async () => {
      const { upload } = await prove()
      upload.settle({ state })
      assert.equal(upload.state, state === "rejected" ? "rejected" : "failed")
      assert.notEqual(upload.note, "")
      assert.equal(await recall(upload.identity), undefined)
    })
  }

  test("that the file is deleted ends the sending", async () => {
    const place = start()
    const { upload, states } = choose(place)
    upload.addEventListener("progress", () => upload.settle({ state: "deleted" }))
    await upload.run()
    assert.deepEqual(states, ["starting", "sending", "failed"])
    assert.deepEqual(place.server.lines, ["POST /files"])
  })
})

describe("a paused upload", () => {
  /**
   * Pause the upload while the browser changes its database.
   * @param {import("node:test").TestContext} context
   * @param {"set" | "delete"} change
   * @param {Upload} upload
   */
  function pauseAt(context, change, upload) {
    const original = rows[change].bind(rows)
    context.mock.method(rows, change, (/** @type {[string, any]} */ ...row) => {
      upload.pause()
      return original(...row)
    })
  }

  test("stops, and continues with the same file at the server", async () => {
    const place = start()
    const { upload, states } = choose(place)
    const pause = () => upload.pause()
    upload.addEventListener("progress", pause)
    await upload.run()
    upload.removeEventListener("progress", pause)
    assert.equal(upload.state, "paused")
    assert.equal(place.store.puts.length, 0)
    await upload.queue()
    await upload.run()
    assert.deepEqual(states, [
      "starting",
      "sending",
      "paused",
      "waiting",
      "starting",
      "sending",
      "proving",
    ])
    assert.deepEqual(place.server.lines, [
      "POST /files",
      "POST /files/f1/upload",
      "POST /files/f1/complete",
    ])
  })

  test("stays paused if this happens while it is remembered", async (context) => {
    const place = start()
    const { upload } = choose(place)
    pauseAt(context, "set", upload)
    await upload.run()
    assert.equal(upload.state, "paused")
    assert.equal(upload.id, "f1")
    assert.equal(place.store.puts.length, 0)
  })

  test("stays paused if this happens while it is forgotten", async (context) => {
    const place = start({ "POST /files/f1/upload": refuse(410, "gone") })
    const { upload } = choose(place)
    upload.id = "f1"
    pauseAt(context, "delete", upload)
    await upload.run()
    assert.equal(upload.state, "paused")
    assert.equal(place.store.puts.length, 0)
  })

  test("stays paused if its last byte has just arrived at the store", async () => {
    const place = start()
    const { upload } = choose(place)
    upload.deliver = async (...sent) => {
      const answer = await place.store.deliver(...sent)
      upload.pause()
      return answer
    }
    await upload.run()
    assert.equal(upload.state, "paused")
    assert.deepEqual(place.server.lines, ["POST /files"])
  })

  test("does not wait for the network or for a key any longer", async () => {
    for (const status of [503, 401]) {
      const place = start({ "POST /files": { status } })
      const { upload } = choose(place)
      const done = upload.run()
      await until(() => place.server.received.length > 0)
      upload.pause()
      await done
      assert.equal(upload.state, "paused")
      assert.equal(upload.hindrance, "")
    }
  })

  test("may be one that has not begun, but none that is at the server", async () => {
    const { upload } = choose(start())
    upload.pause()
    assert.equal(upload.state, "paused")
    await upload.queue()
    await upload.run()
    upload.pause()
    assert.equal(upload.state, "proving")
  })
})

describe("a cancelled upload", () => {
  test("is deleted at the server, and forgotten", async () => {
    const place = start()
    const { upload } = choose(place)
    let cancelled = Promise.resolve()
    const cancel = () => {
      upload.removeEventListener("progress", cancel)
      cancelled = upload.cancel()
    }
    upload.addEventListener("progress", cancel)
    await upload.run()
    await cancelled
    assert.equal(upload.state, "cancelled")
    assert.deepEqual(place.server.lines, ["POST /files", "DELETE /files/f1"])
    assert.equal(await recall(upload.identity), undefined)
  })

  test("needs no request if it has not begun", async () => {
    const place = start()
    const { upload } = choose(place)
    await upload.cancel()
    assert.deepEqual(place.server.lines, [])
  })
})

test("a rejected file is sent again as a new one", async () => {
  const place = start()
  const { upload } = choose(place)
  await upload.run()
  upload.settle({ state: "rejected" })
  await upload.queue()
  assert.equal(upload.state, "waiting")
  assert.equal(upload.sent, 0)
  await upload.run()
  assert.deepEqual(place.server.lines, [...SENT, ...SENT])
})

test("the number of sent bytes never falls, and never exceeds the size", async () => {
  const { upload } = choose(start())
  const seen = [3, 7, 5, 100].map((sent) => {
    upload.progress(sent)
    return upload.sent
  })
  assert.deepEqual(seen, [3, 7, 7, 10])
})

test("a fault in the program fails the upload, and is shown", async () => {
  const { upload } = choose(start())
  upload.deliver = () => Promise.reject(new TypeError("x is not a function"))
  await upload.run()
  assert.equal(upload.state, "failed")
  assert.equal(upload.note, "X is not a function")
})
