import assert from "node:assert/strict"
import { createHash, randomBytes } from "node:crypto"
import { openAsBlob } from "node:fs"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, test } from "node:test"

import {
  CAN_DIGEST,
  digestPiece,
  LARGEST_DIGESTED_BYTES,
  makeKey,
} from "../../service/web/digests.js"

const MEBIBYTE = 1024 ** 2

/** The examples of FIPS 180-2 (NIST), and the empty message of NIST's test vectors. */
const VECTORS = [
  ["", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
  ["abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
  [
    "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
  ],
  ["a".repeat(1_000_000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"],
]

/** @param {Uint8Array} bytes */
function digest(bytes) {
  return createHash("sha256").update(bytes).digest("hex")
}

describe("the SHA-256 of a piece", () => {
  for (const [text, expected] of VECTORS) {
    test(`is that of NIST for ${text.length} characters`, async () => {
      assert.equal(await digestPiece(new Blob([text])), expected)
    })
  }

  test("is right around the boundaries of blocks", async () => {
    for (const size of [1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 4095, 4096, 65_537]) {
      const bytes = randomBytes(size)
      assert.equal(await digestPiece(new Blob([bytes])), digest(bytes), `${size} bytes`)
    }
  })

  test("is that of the bytes of the slice, not of the file", async () => {
    const bytes = randomBytes(5 * MEBIBYTE + 7)
    const file = new File([bytes.subarray(0, 1000), bytes.subarray(1000)], "five.bin")
    for (const [start, end] of [
      [0, MEBIBYTE],
      [999, 1001],
      [MEBIBYTE, 3 * MEBIBYTE],
      [5 * MEBIBYTE, 9 * MEBIBYTE],
      [1, 1],
    ]) {
      const expected = digest(bytes.subarray(start, end))
      assert.equal(await digestPiece(file.slice(start, end)), expected, `${start} to ${end}`)
    }
  })

  test("is right for 48 MiB from many pieces", async () => {
    const pieces = Array.from({ length: 48 }, () => randomBytes(MEBIBYTE))
    assert.equal(await digestPiece(new Blob(pieces)), digest(Buffer.concat(pieces)))
  })

  test("is undefined without WebCrypto, as on a page over plain http", async () => {
    const refused = { digest: () => assert.fail("the test has no WebCrypto") }
    assert.equal(CAN_DIGEST, true)
    assert.equal(await digestPiece(new Blob(["abc"]), /** @type {any} */ (null)), undefined)
    const large = new Blob(Array(LARGEST_DIGESTED_BYTES / MEBIBYTE + 1).fill(blobOf(MEBIBYTE)))
    assert.equal(large.size, LARGEST_DIGESTED_BYTES + MEBIBYTE)
    assert.equal(await digestPiece(large, /** @type {any} */ (refused)), undefined)
  })

  test("fails for a file that was changed on the disk meanwhile", async (context) => {
    const folder = await mkdtemp(join(tmpdir(), "assay-"))
    context.after(() => rm(folder, { recursive: true }))
    const path = join(folder, "file.bin")
    await writeFile(path, "before")
    const file = await openAsBlob(path)
    assert.equal(await digestPiece(file), digest(Buffer.from("before")))
    await writeFile(path, "after it was chosen")
    await assert.rejects(digestPiece(file), { name: "NotReadableError" })
  })
})

/** @param {number} size */
function blobOf(size) {
  return new Blob([new Uint8Array(size)])
}

test("a key has 128 bits in hexadecimal, and comes only once", () => {
  const keys = Array.from({ length: 1000 }, makeKey)
  for (const key of keys) assert.match(key, /^[0-9a-f]{32}$/)
  assert.equal(new Set(keys).size, keys.length)
})
