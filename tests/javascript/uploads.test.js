import assert from "node:assert/strict"
import { describe, test } from "node:test"

import { FILES_AT_ONCE, Uploads } from "../../service/web/uploads.js"
import { Verification } from "../../service/web/verification.js"
import { Assay, refuse } from "./support/assay.js"
import { Clock, nextTurn, until } from "./support/clocks.js"

/** @typedef {import("../../service/web/upload.js").Upload} Upload */

let names = 0

/**
 * Return files of ten bytes with new names.
 * @param {number} count
 */
function choose(count) {
  return Array.from({ length: count }, () => {
    const path = `${++names}.txt`
    return { file: new File(["0123456789"], path, { lastModified: 1 }), path }
  })
}

/**
 * Return a queue whose deliveries last until the test ends them, in the order of their beginning.
 */
function start() {
  let ids = 0
  const server = new Assay({
    "POST /files": () => {
      const id = `f${++ids}`
      server.answers.set(`POST /files/${id}/complete`, [{ json: { id, state: "verifying" } }])
      server.answers.set(`POST /files/${id}/upload`, [{ json: { upload: { url: id } } }])
      server.answers.set(`DELETE /files/${id}`, [{ status: 204 }])
      return { status: 201, json: { file: { id }, upload: { url: id } } }
    },
  })
  const deliveries = /** @type {((status: number) => void)[]} */ ([])
  const uploads = new Uploads(server.api, (_, body, { signal, progress }) => {
    progress(5)
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason))
      deliveries.push((status) => resolve({ status, code: "" }))
    })
  })
  const seen = /** @type {string[]} */ ([])
  for (const type of ["added", "removed"]) uploads.addEventListener(type, () => seen.push(type))
  /** @param {number} count */
  const whenSending = (count) => until(() => uploads.sum().states.sending === count)
  /** @param {number} status */
  const finish = async (status = 200) => {
    const proving = uploads.proving.length
    while (deliveries.length) deliveries.shift()?.(status)
    if (status === 200) await until(() => uploads.proving.length > proving)
  }
  return { server, uploads, deliveries, seen, whenSending, finish }
}

describe("the queue", () => {
  test("sends a few files at once, and the others afterwards", async () => {
    const { uploads, whenSending, finish, deliveries } = start()
    assert.equal(uploads.add(choose(6)), 6)
    await whenSending(FILES_AT_ONCE)
    assert.deepEqual(uploads.sum().states, { sending: FILES_AT_ONCE, waiting: 2 })
    await finish()
    await until(() => deliveries.length === 2)
    await finish()
    await until(() => uploads.proving.length === 6)
    assert.equal(uploads.isBusy, false)
    assert.equal(uploads.running.size, 0)
  })

  test("takes a file only once while it is in progress", async () => {
    const { uploads, whenSending, seen } = start()
    const [chosen] = choose(1)
    assert.equal(uploads.add([chosen, chosen]), 1)
    await whenSending(1)
    assert.equal(uploads.add([chosen]), 0)
    uploads.all[0].settle({ state: "rejected" })
    assert.equal(uploads.add([chosen]), 1)
    assert.deepEqual(seen, ["added", "added"])
  })

  test("gives the place of a paused upload to the next one", async () => {
    const { uploads, whenSending } = start()
    uploads.add(choose(FILES_AT_ONCE + 1))
    await whenSending(FILES_AT_ONCE)
    uploads.pause(uploads.all[0])
    await until(() => uploads.all.at(-1)?.state === "sending")
    assert.equal(uploads.all[0].state, "paused")
    await uploads.queue(uploads.all[0])
    assert.equal(uploads.all[0].state, "waiting")
  })

  test("does not run an upload twice that is resumed at once", async () => {
    const { uploads, whenSending, deliveries } = start()
    uploads.add(choose(1))
    await whenSending(1)
    const [upload] = uploads.all
    uploads.pause(upload)
    await uploads.queue(upload)
    await until(() => deliveries.length === 2)
    await nextTurn()
    assert.equal(upload.state, "sending")
    assert.equal(deliveries.length, 2)
    assert.equal(uploads.running.size, 1)
  })

  test("pauses and resumes all", async () => {
    const { uploads, whenSending } = start()
    uploads.add(choose(6))
    await whenSending(FILES_AT_ONCE)
    uploads.pauseAll()
    assert.deepEqual(uploads.sum().states, { paused: 6 })
    await until(() => uploads.running.size === 0)
    await uploads.resumeAll()
    await whenSending(FILES_AT_ONCE)
    assert.equal(uploads.isBusy, true)
  })

  test("tries all failed uploads again, and no others", async () => {
    const { uploads, whenSending, finish } = start()
    uploads.add(choose(3))
    await whenSending(3)
    uploads.pause(uploads.all[0])
    await finish(400)
    await until(() => uploads.sum().states.failed === 2)
    await uploads.retryAll()
    await whenSending(2)
    assert.equal(uploads.all[0].state, "paused")
  })

  test("cancels what is not sent, and leaves the rest to the server", async () => {
    const { server, uploads, whenSending, finish, seen } = start()
    uploads.add(choose(1))
    await whenSending(1)
    await finish()
    uploads.add(choose(5))
    await whenSending(FILES_AT_ONCE)
    const cancelled = uploads.all.slice(1)
    await uploads.cancelAll()
    await until(() => uploads.running.size === 0)
    assert.deepEqual(
      uploads.all.map(({ state }) => state),
      ["proving"],
    )
    assert.equal(seen.filter((type) => type === "removed").length, 5)
    assert.deepEqual(new Set(cancelled.map(({ state }) => state)), new Set(["cancelled"]))
    assert.equal(server.lines.filter((line) => line.startsWith("DELETE")).length, FILES_AT_ONCE)
  })

  test("removes the uploads that are ready", async () => {
    const { uploads, whenSending, finish } = start()
    uploads.add(choose(2))
    await whenSending(2)
    await finish()
    await until(() => uploads.proving.length === 2)
    const [ready, proving] = uploads.all
    ready.settle({ state: "ready", hash: "9f86" })
    uploads.clear()
    assert.deepEqual(uploads.all, [proving])
    assert.equal(uploads.byId(proving.id), proving)
    assert.equal(uploads.byId(ready.id), undefined)
  })

  test("leaves failed and rejected uploads out of the sums", async () => {
    const { uploads, whenSending } = start()
    uploads.add(choose(3))
    await whenSending(3)
    assert.deepEqual(uploads.sum(), { count: 3, bytes: 30, sent: 15, states: { sending: 3 } })
    uploads.all[0].settle({ state: "rejected" })
    uploads.all[1].settle({ state: "deleted" })
    const states = { rejected: 1, failed: 1, sending: 1 }
    assert.deepEqual(uploads.sum(), { count: 3, bytes: 10, sent: 5, states })
  })
})

describe("polling for verdicts", () => {
  /**
   * Return the polling for uploads that wait for their verdicts.
   * @param {number} count
   */
  async function prove(count) {
    const { server, uploads, whenSending, finish } = start()
    uploads.add(choose(count))
    await whenSending(count)
    await finish()
    await until(() => uploads.proving.length === count)
    server.received = []
    const events = { isMissing: false }
    const verification = new Verification(server.api, uploads, events, new Clock())
    return { server, uploads, events, verification }
  }

  test("waits at the server for the verdict if there are no events", async (context) => {
    const { server, uploads, events, verification } = await prove(3)
    events.isMissing = true
    for (const { id } of uploads.all) {
      server.answers.set(`GET /files/${id}/metadata?wait=10`, [
        { json: { id, state: "verifying" } },
        { json: { id, state: "ready", hash: "9f86" } },
      ])
    }
    verification.open()
    context.after(() => verification.close())
    await until(() => uploads.sum().states.ready === 3)
    assert.equal(server.received.length, 6)
  })

  test("happens seldom while there are events", async (context) => {
    const { server, verification } = await prove(1)
    verification.open()
    context.after(() => verification.close())
    for (let turn = 0; turn < 50; turn++) await nextTurn()
    assert.deepEqual(server.lines, [])
  })

  test("happens at once after missed events, once for each upload", async () => {
    const { server, uploads, verification } = await prove(2)
    for (const { id } of uploads.all) {
      const ready = { json: { id, state: "ready", hash: id } }
      server.answers.set(`GET /files/${id}/metadata?wait=0`, [ready])
    }
    await Promise.all([verification.pollAll(), verification.pollAll()])
    assert.equal(server.received.length, 2)
    // The two files were declared at the same time, in either order.
    const hashes = uploads.all.map(({ hash }) => hash).sort()
    assert.deepEqual(hashes, ["f1", "f2"])
  })

  test("ends the upload of a file that the server no longer has", async () => {
    const { server, uploads, verification } = await prove(1)
    server.answers.set("GET /files/f1/metadata?wait=0", [refuse(404, "not-found")])
    await verification.pollAll()
    assert.equal(uploads.all[0].state, "failed")
  })

  test("leaves the upload as it is at another refusal", async () => {
    const { server, uploads, verification } = await prove(1)
    server.answers.set("GET /files/f1/metadata?wait=0", [refuse(403, "forbidden")])
    await verification.pollAll()
    assert.equal(uploads.all[0].state, "proving")
  })

  test("stops when the user signs out", async () => {
    const { server, events, verification } = await prove(1)
    events.isMissing = true
    server.answers.set("GET /files/f1/metadata?wait=10", [{ json: { state: "verifying" } }])
    verification.open()
    await until(() => server.received.length > 2)
    verification.close()
    await nextTurn()
    await nextTurn()
    const { length } = server.received
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    assert.equal(server.received.length, length)
  })
})
