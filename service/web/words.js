/**
 * Words for numbers, times, states, and errors with what to do next. Headings and labels are in index.html; a sentence about one thing
 * is in the module that shows it.
 */

import { Refused, Unreachable } from "./api.js"

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"]

/** What the API calls a state, for people. */
export const STATES = /** @type {Record<string, string>} */ ({
  pending: "Waiting for its bytes",
  verifying: "Verifying",
  ready: "Ready",
  rejected: "Rejected",
  damaged: "Damaged",
  expired: "Expired",
  deleted: "Deleted",
})

const REASONS = /** @type {Record<string, string>} */ ({
  "size-mismatch": "What arrived has another size than announced. Send the file again.",
  "digest-mismatch": "What arrived is not what was announced: its SHA-256 differs. Send the file again, and look at the way it takes.",
  "content-type-mismatch": "What arrived has another type than announced. Send the file again.",
  unverifiable: "The store could not read back what arrived. Send the file again; if it stays, tell whoever runs the store.",
})

const PROBLEMS = /** @type {Record<string, string>} */ ({
  unauthorized: "The key is not known here: it is wrong, was revoked, or has expired. Sign in with another one.",
  gone: "The file is gone: it was deleted, or the time for its upload has ended. Send it again as a new one.",
  "not-found": "There is no such file any more, or it is somebody else's.",
  "not-ready": "The file is not proved yet. Wait until it is ready.",
  "links-not-available": "This server makes no links: whoever runs it has to set ASSAY_LINK_SECRET.",
  "internal-error": "A fault of the server's own; its log has it. Try again, and report it if it stays.",
  "file-damaged": "The proved object is gone or altered at the store. Tell whoever runs it.",
})

/** @param {number} bytes */
export function sayBytes(bytes) {
  let unit = 0
  let value = bytes
  while (value >= 1024 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1]
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`
}

/** @param {number} count @param {string} one @param {string} many */
export function sayCount(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`
}

/** Time left, no finer than it can be known. @param {number} seconds */
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

/** @param {{reason: string, detail: string} | null} rejection */
export function sayRejection(rejection) {
  if (!rejection) return "The file was rejected. Send it again."
  const reason = REASONS[rejection.reason] ?? "The file was rejected. Send it again."
  return rejection.detail ? `${reason} (${rejection.detail})` : reason
}

/** What went wrong and what to do next. @param {unknown} error */
export function sayError(error) {
  if (error instanceof Unreachable) return `${capitalise(error.message)}. Check the network, then try again.`
  if (error instanceof Refused) return sayRefusal(error)
  return error instanceof Error ? capitalise(error.message) : String(error)
}

/** What the API says of a field, for somebody who has never seen one. */
const FIELDS = /** @type {Record<string, [string, string]>} */ ({
  filename: ["Its name", "Rename the file on this device, then choose it again."],
  metadata: ["Its path", "Move the folder to a shorter path, or send the file alone."],
  size: ["It is too large for this server:", "Ask whoever runs it for more."],
  content_type: ["Its type", "Rename the file with another ending, then choose it again."],
})

/** @param {Refused} refused */
function sayRefusal(refused) {
  const [wrong] = refused.problem.errors ?? []
  if (wrong && FIELDS[wrong.field]) return `${FIELDS[wrong.field][0]} ${wrong.detail}. ${FIELDS[wrong.field][1]}`
  if (refused.kind === "file-rejected") return sayRejection({ reason: refused.problem.reason, detail: "" })
  if (PROBLEMS[refused.kind]) return PROBLEMS[refused.kind]
  if (refused.isPassing) return `The server cannot answer now (${refused.message}). Try again in a moment.`
  return `${capitalise(refused.message)}.`.replace(/\.\.$/, ".")
}

/** The store's answer to a PUT. @param {number} status @param {string} code the store's own word */
export function sayStoreRefusal(status, code) {
  const said = `the store refused the bytes (${code || status})`
  if (/SHA256Mismatch|BadDigest/.test(code)) return `${said}: they changed on the way, or the file changed while it was sent. Try again`
  if (status === 403) return `${said}, with fresh URLs too. If the clock of this device or of the store is wrong, set it; else tell whoever runs it`
  return `${said}. Try again; if it stays, tell whoever runs the store`
}

/** Why something waits. @param {Error} error */
export function sayUnavailable(error) {
  return capitalise(error instanceof Refused ? `the server cannot answer now (${error.message})` : error.message)
}

/** @param {string} text */
function capitalise(text) {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
