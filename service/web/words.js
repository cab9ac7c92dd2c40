/**
 * Words for numbers, times, states and errors. The text of an error says what to do next. Headings
 * and labels are in index.html, and other texts are in the modules that show them.
 */

import { Refused, Unreachable } from "./api.js"

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"]
/** How many tries an upload makes before the page suggests asking the administrator. */
const MOST_SILENT_TRIES = 5

/** @type {Record<string, string>} */
export const STATES = {
  pending: "Waiting for upload",
  verifying: "Verifying",
  ready: "Ready",
  rejected: "Rejected",
  damaged: "Damaged",
  expired: "Expired",
  deleted: "Deleted",
}

/** @type {Record<string, string>} */
const REASONS = {
  "size-mismatch": "The uploaded data has a different size than declared. Send the file again.",
  "digest-mismatch":
    "The uploaded data is not what was declared: its SHA-256 differs. Send the file again. If" +
    " this happens again, check the network for a device that alters data.",
  "content-type-mismatch":
    "The uploaded data has a different type than declared. Send the file again.",
  unverifiable:
    "The store could not read the uploaded data back. Send the file again. If this happens again," +
    " contact the administrator of the store.",
}
const UNKNOWN_REASON = "The file was rejected. Send it again."

export const DAMAGED =
  "The stored file is missing or was altered, so it cannot be downloaded. Send it again, or" +
  " delete it."

/** @type {Record<string, string>} */
const PROBLEMS = {
  unauthorized:
    "The server does not accept this key: it is wrong, was revoked, or has expired. Sign in with" +
    " another one.",
  gone: "The file was deleted, or its upload has expired. Send it again as a new file.",
  "not-found": "The file no longer exists, or it belongs to another owner.",
  "not-ready": "The file is not verified yet. Wait until it is ready.",
  "links-not-available":
    "This server cannot create links. Its administrator has to set ASSAY_LINK_SECRET.",
  "internal-error":
    "The server failed, and its log has the reason. Try again. If this happens again, report it" +
    " to the administrator.",
  "file-damaged": DAMAGED,
}

/**
 * The beginning and the end of a sentence about each field of a declaration. The server's detail
 * goes between them.
 * @type {Record<string, [string, string]>}
 */
const FIELDS = {
  filename: ["The file name", "Rename the file on this device, then choose it again."],
  metadata: ["The path", "Move the folder to a shorter path, or send the file alone."],
  size: ["The file is too large for this server:", "Ask the administrator for a higher limit."],
  content_type: ["The type", "Give the file another extension, then choose it again."],
}

/** @param {number} bytes */
export function sayBytes(bytes) {
  let unit = 0
  let value = bytes
  // A value that would be rounded to 1024 is written in the next unit.
  while (Math.round(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} many
 */
export function sayCount(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`
}

/**
 * Return the remaining time, rounded to what can be estimated. Return "" if it is not known.
 * @param {number} seconds
 */
export function sayLeft(seconds) {
  if (!Number.isFinite(seconds)) return ""
  if (seconds < 10) return "a few seconds left"
  if (seconds < 90) return `about ${Math.ceil(seconds / 10) * 10} s left`
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min left`
  return `about ${(seconds / 3600).toFixed(1)} h left`
}

/** @param {string | null} time RFC 3339 */
export function sayTime(time) {
  if (!time) return "–"
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })
}

/** @param {import("./api.js").Rejection | null | undefined} rejection */
export function sayRejection(rejection) {
  if (!rejection) return UNKNOWN_REASON
  const reason = REASONS[rejection.reason] ?? UNKNOWN_REASON
  return rejection.detail ? `${reason} (${rejection.detail})` : reason
}

/** @param {unknown} error */
export function sayError(error) {
  if (error instanceof Unreachable) {
    return `${capitalise(error.message)}. Check the network, then try again.`
  }
  if (error instanceof Refused) return sayRefusal(error)
  return error instanceof Error ? capitalise(error.message) : String(error)
}

/** @param {Refused} refused */
function sayRefusal(refused) {
  const [wrong] = refused.problem.errors ?? []
  if (wrong && FIELDS[wrong.field]) {
    const [beginning, advice] = FIELDS[wrong.field]
    return `${beginning} ${wrong.detail}. ${advice}`
  }
  if (refused.kind === "file-rejected") {
    return sayRejection({ reason: refused.problem.reason ?? "", detail: "" })
  }
  if (PROBLEMS[refused.kind]) return PROBLEMS[refused.kind]
  if (refused.isTransient) {
    return `The server is temporarily unavailable (${refused.message}). Try again in a moment.`
  }
  return `${capitalise(refused.message)}.`.replace(/\.\.$/, ".")
}

/**
 * Return why an upload failed.
 * @param {unknown} error
 */
export function sayFailure(error) {
  const isUnreadable =
    error instanceof DOMException &&
    (error.name === "NotReadableError" || error.name === "NotFoundError")
  if (!isUnreadable) return sayError(error)
  return (
    "The file can no longer be read: it was changed, moved or removed on this device." +
    " Choose it again."
  )
}

/**
 * Return what a final error status of the store means.
 * @param {number} status
 * @param {string} code the store's name of the error, or ""
 */
export function sayStoreRefusal(status, code) {
  const refusal = `The store refused the data (${code || status})`
  if (/SHA256Mismatch|BadDigest/.test(code)) {
    return `${refusal}: it was altered in transit, or the file changed meanwhile. Try again.`
  }
  if (status === 403) {
    return (
      `${refusal}, although the URLs were new. Check the clocks of this device and of the store.` +
      " If both are correct, contact the administrator."
    )
  }
  return `${refusal}. Try again. If this happens again, contact the administrator of the store.`
}

/**
 * Return why an upload waits. Return "" if it does not wait.
 * @param {import("./retries.js").Waiting | null} waiting
 */
export function sayWaiting(waiting) {
  if (waiting === null) return ""
  const { offline, error, tries } = waiting
  if (offline) {
    return "This device is offline. The upload continues automatically when the network is back."
  }
  const cause =
    error instanceof Refused
      ? `the server is temporarily unavailable (${error.message})`
      : error.message
  const advice =
    tries > MOST_SILENT_TRIES
      ? " If this continues, contact the administrator: the store must be reachable from here," +
        " and it must allow this page."
      : ""
  return `${capitalise(cause)}. Retrying automatically.${advice}`
}

/** @param {string} text */
function capitalise(text) {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
