import assert from "node:assert/strict"
import { describe, test } from "node:test"

import { Refused, Unreachable } from "../../service/web/api.js"
import {
  sayBytes,
  sayCount,
  sayError,
  sayFailure,
  sayLeft,
  sayRejection,
  sayStoreRefusal,
  sayTime,
  sayWaiting,
} from "../../service/web/words.js"

const KIBIBYTE = 1024
const MEBIBYTE = 1024 ** 2
const GIBIBYTE = 1024 ** 3
const TEBIBYTE = 1024 ** 4

/**
 * Return the refusal that the page makes of a problem document.
 * @param {number} status
 * @param {string} kind
 * @param {import("../../service/web/api.js").Problem} members
 */
function refuse(status, kind, members = {}) {
  return new Refused(status, { type: `urn:assay:problem:${kind}`, ...members })
}

test("sizes have three digits or fewer, and the unit that fits", () => {
  const sizes = /** @type {[number, string][]} */ ([
    [0, "0 B"],
    [1, "1 B"],
    [1023, "1023 B"],
    [KIBIBYTE, "1.0 KiB"],
    [1536, "1.5 KiB"],
    [99.9 * KIBIBYTE, "99.9 KiB"],
    [100 * KIBIBYTE, "100 KiB"],
    [MEBIBYTE, "1.0 MiB"],
    [5 * GIBIBYTE, "5.0 GiB"],
    [2.25 * TEBIBYTE, "2.3 TiB"],
    [5000 * TEBIBYTE, "5000 TiB"],
  ])
  for (const [bytes, expected] of sizes) assert.equal(sayBytes(bytes), expected)
})

test("sizes just below a unit are rounded to this unit", () => {
  assert.equal(sayBytes(100 * KIBIBYTE - 1), "100 KiB")
  assert.equal(sayBytes(MEBIBYTE - 1), "1.0 MiB")
  assert.equal(sayBytes(GIBIBYTE - 1), "1.0 GiB")
  assert.equal(sayBytes(1023.7), "1.0 KiB")
})

test("rates may be fractions of a byte", () => {
  assert.equal(sayBytes(0.4), "0 B")
  assert.equal(sayBytes(12.6), "13 B")
})

test("counts have the singular only for one, and commas for thousands", () => {
  assert.equal(sayCount(0, "file"), "0 files")
  assert.equal(sayCount(1, "file"), "1 file")
  assert.equal(sayCount(2, "file"), "2 files")
  assert.equal(sayCount(1_234_567, "file"), "1,234,567 files")
  assert.equal(sayCount(1, "is", "are"), "1 is")
  assert.equal(sayCount(2, "is", "are"), "2 are")
})

test("remaining times are rounded more, the longer they are", () => {
  const times = /** @type {[number, string][]} */ ([
    [0, "a few seconds left"],
    [9.9, "a few seconds left"],
    [10, "about 10 s left"],
    [10.1, "about 20 s left"],
    [89.9, "about 90 s left"],
    [90, "about 2 min left"],
    [3600, "about 60 min left"],
    [5399, "about 90 min left"],
    [5400, "about 1.5 h left"],
    [360_000, "about 100.0 h left"],
  ])
  for (const [seconds, expected] of times) assert.equal(sayLeft(seconds), expected)
})

test("remaining times are empty if they are not known", () => {
  for (const seconds of [0 / 0, 1 / 0]) assert.equal(sayLeft(seconds), "")
})

test("times are those of the user's zone", (context) => {
  const zone = process.env.TZ
  context.after(() => (zone === undefined ? delete process.env.TZ : (process.env.TZ = zone)))
  const instant = ["2026-11-22T23:30:00Z", "2026-11-23T00:30:00.000000+01:00"]
  for (process.env.TZ of ["UTC", "Asia/Tokyo"]) {
    const expected = new Date(2026, 10, process.env.TZ === "UTC" ? 22 : 23)
    const [one, other] = instant.map(sayTime)
    assert.equal(one, other)
    const date = expected.toLocaleDateString(undefined, { dateStyle: "medium" })
    assert.ok(one.startsWith(date), `${one} in ${process.env.TZ}`)
  }
})

test("times that are absent are a dash", () => {
  assert.equal(sayTime(null), "–")
  assert.equal(sayTime(""), "–")
})

describe("the words of an error", () => {
  test("differ for each reason of a rejection", () => {
    const reasons = [
      "size-mismatch",
      "digest-mismatch",
      "content-type-mismatch",
      "unverifiable",
      "of a later version",
    ]
    const texts = reasons.map((reason) => sayRejection({ reason, detail: "" }))
    assert.equal(new Set(texts).size, reasons.length)
    assert.equal(sayRejection(null), texts.at(-1))
    assert.equal(sayRejection(undefined), texts.at(-1))
  })

  test("have the server's detail of a rejection", () => {
    const text = sayRejection({ reason: "size-mismatch", detail: "5 bytes, not 6" })
    assert.match(text, /\(5 bytes, not 6\)$/)
    assert.doesNotMatch(sayRejection({ reason: "size-mismatch", detail: "" }), /\(/)
  })

  test("are those of the reason if a request is refused for a rejected file", () => {
    const error = refuse(409, "file-rejected", { reason: "digest-mismatch" })
    assert.equal(sayError(error), sayRejection({ reason: "digest-mismatch", detail: "" }))
  })

  test("explain the field that the server does not accept", () => {
    const detail = "must be at most 5368709120"
    const error = refuse(422, "invalid-request", {
      detail: `size: ${detail}`,
      errors: [{ field: "size", detail }],
    })
    assert.match(sayError(error), /^The file is too large.*must be at most 5368709120\. \w.*\.$/)
  })

  test("are the server's own for a field that the page does not send", () => {
    const errors = [{ field: "expires_in", detail: "must be a number" }]
    const error = refuse(422, "invalid-request", { detail: "expires_in: no number", errors })
    assert.equal(sayError(error), "Expires_in: no number.")
  })

  test("end with one full stop", () => {
    assert.equal(sayError(refuse(409, "other", { detail: "it is full" })), "It is full.")
    assert.equal(sayError(refuse(409, "other", { detail: "It is full." })), "It is full.")
  })

  test("are never the bare document of a known problem", () => {
    for (const kind of ["unauthorized", "gone", "not-found", "not-ready", "file-damaged"]) {
      const status = kind === "file-damaged" ? 502 : 409
      const text = sayError(refuse(status, kind, { detail: "the server's detail" }))
      assert.doesNotMatch(text, /the server's detail/)
      assert.match(text, /^[A-Z].*\.$/)
    }
  })

  test("tell a server that is busy from one that does not answer", () => {
    const busy = sayError(refuse(503, "unavailable", { detail: "the database is unavailable" }))
    assert.match(busy, /the database is unavailable/)
    assert.match(sayError(new Unreachable("the server")), /^The server does not answer\. /)
  })

  test("are the message of an unexpected exception", () => {
    assert.equal(sayError(new TypeError("x is not a function")), "X is not a function")
    assert.equal(sayError("text"), "text")
    assert.equal(sayError(undefined), "undefined")
  })

  test("say that a file on this device can no longer be read", () => {
    const texts = ["NotReadableError", "NotFoundError"].map((name) =>
      sayFailure(new DOMException("The requested file could not be read", name)),
    )
    assert.equal(texts[0], texts[1])
    assert.match(texts[0], /read/)
    assert.doesNotMatch(texts[0], /requested/)
    assert.equal(sayFailure(new DOMException("no space", "QuotaExceededError")), "No space")
    assert.equal(sayFailure(new Error("other")), "Other")
  })

  test("have the store's own code, or else the status", () => {
    assert.match(sayStoreRefusal(400, "EntityTooLarge"), /\(EntityTooLarge\)/)
    assert.match(sayStoreRefusal(418, ""), /\(418\)/)
  })

  test("differ for altered data, wrong clocks and the rest", () => {
    const rest = sayStoreRefusal(400, "Other").replace("Other", "")
    const altered = ["XAmzContentSHA256Mismatch", "BadDigest"].map((code) =>
      sayStoreRefusal(400, code).replace(code, ""),
    )
    const clocks = sayStoreRefusal(403, "AccessDenied").replace("AccessDenied", "")
    assert.equal(altered[0], altered[1])
    assert.equal(new Set([rest, altered[0], clocks]).size, 3)
    assert.match(clocks, /clock/)
  })
})

describe("the words of a wait", () => {
  const error = new Unreachable("the store")

  test("are empty when nothing is waited for", () => {
    assert.equal(sayWaiting(null), "")
  })

  test("do not blame the server if the device is offline", () => {
    const text = sayWaiting({ offline: true, error, tries: 1 })
    assert.match(text, /offline/)
    assert.doesNotMatch(text, /store/)
  })

  test("name the server, and advise after the fifth try", () => {
    const early = sayWaiting({ offline: false, error, tries: 5 })
    const late = sayWaiting({ offline: false, error, tries: 6 })
    assert.match(early, /^The store does not answer\. /)
    assert.ok(late.startsWith(early) && late.length > early.length)
  })

  test("have the detail of a refusal", () => {
    const refused = refuse(503, "unavailable", { detail: "the database is unavailable" })
    const text = sayWaiting({ offline: false, error: refused, tries: 1 })
    assert.match(text, /^The server .*the database is unavailable/)
  })
})
