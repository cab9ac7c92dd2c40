import assert from "node:assert/strict"
import { createHash, randomBytes } from "node:crypto"
import { describe, test } from "node:test"

import { countInFlight, sendParts, StartAgain } from "../../service/web/parts.js"
import { MOST_FRESH_URLS } from "../../service/web/sending.js"
import { Upload } from "../../service/web/upload.js"
import { Assay, refuse, Store } from "./support/assay.js"

const NEVER = new AbortController().signal
const MEBIBYTE = 1024 ** 2

test("at most four parts, of 256 MiB in all, are in memory at once", () => {
  const sizes = /** @type {[number, number][]} */ ([
    [5 * MEBIBYTE, 4],
    [64 * MEBIBYTE, 4],
    [64 * MEBIBYTE + 1, 3],
    [128 * MEBIBYTE, 2],
    [256 * MEBIBYTE, 1],
    [5 * 1024 * MEBIBYTE, 1],
  ])
  for (const [size, expected] of sizes) assert.equal(countInFlight(size), expected)
})

/**
 * Return an upload of a file in parts. The server signs any part, and the store has `stored`.
 * @param {{size: number, partSize: number, statuses?: number[],
 *          stored?: {number: number, size: number}[]}} options
 */
function begin({ size, partSize, statuses = [], stored = [] }) {
  const bytes = randomBytes(size)
  const plan = { part_size: partSize, parts: Math.ceil(size / partSize) }
  let signatures = 0
  const server = new Assay({ "GET /files/f1/parts": { json: { parts: stored } } })
  const sign = () => {
    const [{ number }] = server.bodies("POST /files/f1/parts").at(-1).parts
    const url = `http://store.test/${number}?signature=${++signatures}`
    return { json: { parts: [{ method: "PUT", url, headers: {} }] } }
  }
  server.answers.set("POST /files/f1/parts", [sign])
  const store = new Store(statuses)
  const file = new File([bytes], "large.bin", { lastModified: 1000 })
  const upload = new Upload(server.api, file, "large.bin", store.deliver)
  upload.id = "f1"
  return { server, store, upload, plan, bytes }
}

/**
 * Return the numbers of the parts that were sent, in order.
 * @param {Store} store
 */
function listSent(store) {
  return store.puts.map(({ url }) => Number(/(\d+)\?/.exec(url)?.[1])).sort((a, b) => a - b)
}

/**
 * Return the bytes of the parts that were sent, in the order of their numbers.
 * @param {Store} store
 */
async function join(store) {
  const inOrder = store.puts.toSorted((one, other) => one.url.localeCompare(other.url))
  return Buffer.from(await new Blob(inOrder.map(({ body }) => body)).arrayBuffer())
}

/**
 * Let the file have parts of 256 MiB, of which one is sent at a time, and let each digest and each
 * PUT take a number of milliseconds by the clock of the test.
 * @param {import("node:test").TestContext} context
 * @param {Upload} upload
 * @param {{parts: number, digesting: number, sending: number}} options
 */
function takeTimes(context, upload, { parts, digesting, sending }) {
  let now = 0
  const { deliver } = upload
  const size = 256 * MEBIBYTE
  upload.file = /** @type {File} */ ({ size: parts * size, slice: () => new Blob(["x"]) })
  upload.deliver = (...request) => {
    now += sending
    return deliver(...request)
  }
  context.mock.method(performance, "now", () => now)
  const digest = crypto.subtle.digest.bind(crypto.subtle)
  context.mock.method(crypto.subtle, "digest", (/** @type {any} */ ...request) => {
    now += digesting
    return digest(.../** @type {[string, ArrayBuffer]} */ (request))
  })
  return { part_size: size, parts }
}

describe("the parts of a file", () => {
  for (const [size, expected] of /** @type {[number, number[]][]} */ ([
    [1, [1]],
    [1000, [1000]],
    [1001, [1000, 1]],
    [2999, [1000, 1000, 999]],
    [3000, [1000, 1000, 1000]],
  ])) {
    test(`cover each of ${size} bytes once`, async () => {
      const { store, upload, plan, bytes } = begin({ size, partSize: 1000 })
      await sendParts(upload, plan, NEVER)
      const sizes = store.puts.map(({ body }) => body.size)
      assert.deepEqual(
        sizes.sort((one, other) => other - one),
        expected,
      )
      assert.ok((await join(store)).equals(bytes))
      assert.equal(upload.sent, size)
    })
  }

  test("are signed for the SHA-256 of their bytes", async () => {
    const { server, upload, plan, bytes } = begin({ size: 2500, partSize: 1000 })
    await sendParts(upload, plan, NEVER)
    const signed = server.bodies("POST /files/f1/parts").flatMap(({ parts }) => parts)
    for (const { number, sha256 } of signed) {
      const part = bytes.subarray((number - 1) * 1000, number * 1000)
      assert.equal(sha256, createHash("sha256").update(part).digest("hex"))
    }
    assert.equal(signed.length, 3)
  })

  for (const [digesting, sending, bound] of [
    [10, 80, 6],
    [10, 79, 1],
  ]) {
    const title = `${bound} of 6 are digested if it takes ${digesting} ms, and a PUT ${sending} ms`
    test(title, async (context) => {
      const { server, store, upload } = begin({ size: 6, partSize: 1 })
      const plan = takeTimes(context, upload, { parts: 6, digesting, sending })
      await sendParts(upload, plan, NEVER)
      const signed = server.bodies("POST /files/f1/parts").flatMap(({ parts }) => parts)
      assert.equal(signed.filter(({ sha256 }) => sha256).length, bound)
      assert.equal(store.puts.length, 6)
    })
  }

  test("are in flight four at a time", async () => {
    const { store, upload, plan } = begin({ size: 40, partSize: 1 })
    await sendParts(upload, plan, NEVER)
    assert.equal(store.puts.length, 40)
    assert.ok(store.mostInFlight > 1 && store.mostInFlight <= 4, `${store.mostInFlight}`)
  })

  test("are not sent again if the store has them in the right size", async () => {
    const stored = [
      { number: 1, size: 1000 },
      { number: 2, size: 999 },
      { number: 3, size: 500 },
      { number: 9, size: 1000 },
    ]
    const { store, upload, plan } = begin({ size: 2500, partSize: 1000, stored })
    const seen = /** @type {number[]} */ ([])
    upload.addEventListener("progress", () => seen.push(upload.sent))
    await sendParts(upload, plan, NEVER)
    assert.deepEqual(listSent(store), [2])
    assert.deepEqual(seen, [1500, 2000, 2500, 2500])
  })

  test("are not sent at all if the store has all of them", async () => {
    const stored = [{ number: 1, size: 10 }]
    const { store, upload, plan } = begin({ size: 10, partSize: 1000, stored })
    await sendParts(upload, plan, NEVER)
    assert.equal(store.puts.length, 0)
    assert.equal(upload.sent, 10)
  })

  test("leave the digest of one of them for a check after a reload", async () => {
    const stored = [{ number: 1, size: 1000 }]
    const { upload, plan, bytes } = begin({ size: 2500, partSize: 1000, stored })
    await sendParts(upload, plan, NEVER)
    const { start, end, sha256 } = upload.sample ?? { start: 0, end: 0, sha256: "" }
    assert.ok(start >= 1000)
    const expected = createHash("sha256").update(bytes.subarray(start, end)).digest("hex")
    assert.equal(sha256, expected)
  })

  test("are sent to fresh URLs after a 403", async () => {
    const { server, store, upload, plan } = begin({ size: 9, partSize: 10, statuses: [403, 403] })
    await sendParts(upload, plan, NEVER)
    assert.equal(new Set(store.puts.map(({ url }) => url)).size, 3)
    assert.equal(server.bodies("POST /files/f1/parts").length, 3)
  })

  test("fail after a 403 for each of a few fresh URLs", async () => {
    const statuses = Array(20).fill(403)
    const { store, upload, plan } = begin({ size: 9, partSize: 10, statuses })
    await assert.rejects(sendParts(upload, plan, NEVER), /Refused/)
    assert.equal(store.puts.length, MOST_FRESH_URLS)
  })

  test("are begun again if the store lost the multipart upload", async () => {
    const { upload, plan } = begin({ size: 9, partSize: 10, statuses: [404] })
    await assert.rejects(sendParts(upload, plan, NEVER), (error) => {
      return error instanceof StartAgain && !error.asNewFile
    })
  })

  for (const [status, kind, asNewFile] of /** @type {[number, string, boolean][]} */ ([
    [409, "upload-lost", true],
    [410, "gone", true],
    [409, "already-uploaded", false],
  ])) {
    test(`start again ${asNewFile ? "as a new file" : "as they are"} at ${kind}`, async () => {
      const { server, upload, plan } = begin({ size: 9, partSize: 10 })
      for (const line of ["POST /files/f1/parts", "GET /files/f1/parts"]) {
        server.answers.set(line, [refuse(status, kind)])
        await assert.rejects(sendParts(upload, plan, NEVER), (error) => {
          return error instanceof StartAgain && error.asNewFile === asNewFile
        })
      }
    })
  }

  test("stop when one of them fails, and none is left in flight", async () => {
    const statuses = [200, 200, 400]
    const { store, upload, plan } = begin({ size: 100, partSize: 1, statuses })
    await assert.rejects(sendParts(upload, plan, NEVER), /Refused/)
    const { length } = store.puts
    assert.ok(length < 20, `${length} parts`)
    assert.equal(store.inFlight, 0)
  })

  test("stop with the reason of the signal", async () => {
    const { store, upload, plan } = begin({ size: 100, partSize: 1 })
    const controller = new AbortController()
    const reason = new Error("paused by the user")
    upload.addEventListener("progress", () => upload.sent >= 10 && controller.abort(reason))
    await assert.rejects(sendParts(upload, plan, controller.signal), reason)
    assert.ok(store.puts.length < 20)
  })
})
