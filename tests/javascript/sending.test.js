import assert from "node:assert/strict"
import { describe, test } from "node:test"

import { Unreachable } from "../../service/web/api.js"
import { MOST_FRESH_URLS, readAnswer, sendWhole } from "../../service/web/sending.js"
import { Upload } from "../../service/web/upload.js"
import { Assay, refuse, Store } from "./support/assay.js"

const NEVER = new AbortController().signal
const FIRST = { method: "PUT", url: "http://store.test/first", headers: {} }

/** A response of MinIO, without the parts that differ from request to request. */
const REFUSAL =
  '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>XAmzContentSHA256Mismatch</Code>' +
  "<Message>The provided 'x-amz-content-sha256' header does not match what was computed." +
  "</Message><Key>f1</Key><BucketName>uploads</BucketName></Error>"

describe("the store's response", () => {
  test("has the code of its XML, if there is one", () => {
    assert.deepEqual(readAnswer(400, REFUSAL), { status: 400, code: "XAmzContentSHA256Mismatch" })
    assert.deepEqual(readAnswer(200, ""), { status: 200, code: "" })
    assert.deepEqual(readAnswer(413, "<html>Too large</html>"), { status: 413, code: "" })
  })

  for (const status of [408, 429, 500, 502, 503, 504]) {
    test(`is transient for ${status}`, () => {
      assert.throws(
        () => readAnswer(status, REFUSAL),
        (error) =>
          error instanceof Unreachable && error.isTransient && error.message.includes(`${status}`),
      )
    })
  }
})

/**
 * Return an upload whose URLs the server renews, and the store that it is sent to.
 * @param {number[]} statuses of the store
 */
function begin(statuses) {
  let renewals = 0
  const server = new Assay({
    "POST /files/f1/upload": () => ({
      json: { upload: { ...FIRST, url: `http://store.test/${++renewals}` } },
    }),
  })
  const store = new Store(statuses)
  const file = new File(["0123456789"], "a.txt")
  const upload = new Upload(server.api, file, "a.txt", store.deliver)
  upload.id = "f1"
  return { server, store, upload }
}

describe("a whole file", () => {
  test("is sent with one PUT", async () => {
    const { store, upload } = begin([])
    const seen = /** @type {number[]} */ ([])
    upload.addEventListener("progress", () => seen.push(upload.sent))
    await sendWhole(upload, FIRST, NEVER)
    assert.deepEqual(
      store.puts.map(({ url }) => url),
      ["http://store.test/first"],
    )
    assert.equal(await store.puts[0].body.text(), "0123456789")
    assert.deepEqual(seen, [5, 10])
  })

  test("is there already if the store answers 412", async () => {
    const { store, upload } = begin([412])
    await sendWhole(upload, FIRST, NEVER)
    assert.equal(store.puts.length, 1)
  })

  test("is sent to a fresh URL after a 403", async () => {
    const { store, upload } = begin([403, 200])
    await sendWhole(upload, FIRST, NEVER)
    assert.deepEqual(
      store.puts.map(({ url }) => url),
      ["http://store.test/first", "http://store.test/1"],
    )
  })

  test("fails after a 403 for each of a few fresh URLs", async () => {
    const { store, upload } = begin(Array(20).fill(403))
    await assert.rejects(sendWhole(upload, FIRST, NEVER), /Refused/)
    assert.equal(store.puts.length, MOST_FRESH_URLS)
  })

  test("is not sent again if the store got it before the URL expired", async () => {
    const { server, store, upload } = begin([403])
    server.answers.set("POST /files/f1/upload", [refuse(409, "already-uploaded")])
    await sendWhole(upload, FIRST, NEVER)
    assert.equal(store.puts.length, 1)
  })

  test("fails at any other refusal", async () => {
    const { store, upload } = begin([400])
    await assert.rejects(sendWhole(upload, FIRST, NEVER), /Refused/)
    assert.equal(store.puts.length, 1)
  })
})
