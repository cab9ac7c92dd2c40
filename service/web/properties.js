/** The properties and the history of a file, as its details show them. */

import { make, makeCopyButton, makeName, makePill, showName } from "./elements.js"
import { sayBytes, sayTime } from "./words.js"

/** @typedef {import("./api.js").FileMetadata} FileMetadata */

/**
 * A transition in the history of a file.
 * @typedef {object} HistoryEntry
 * @property {string} at RFC 3339
 * @property {string} state
 * @property {string} by
 * @property {string | null} why
 */

/** @type {Record<string, string>} */
const CAUSES = { client: "a client", store: "the store", worker: "a worker" }
/** The form in which the command line sends the modification time of a file. */
const SECONDS = /^-?\d{1,12}(\.\d{1,9})?$/

/** @param {FileMetadata} file */
export function makeProperties(file) {
  const list = make("dl")
  const add = (/** @type {string} */ term, /** @type {(Node | string)[]} */ ...description) =>
    list.append(make("div", {}, make("dt", {}, term), make("dd", {}, ...description)))
  const { id, hash } = file
  add("Size", `${sayBytes(file.size)} (${file.size.toLocaleString("en")} bytes)`)
  add("Type", makeName(file.content_type))
  if (hash) {
    const copyButton = makeCopyButton(() => hash, "Copy the SHA-256")
    add("SHA-256 (proved)", make("code", { id: "digest" }, hash), copyButton)
  } else if (file.declared_sha256) {
    add("SHA-256 (declared)", make("code", {}, file.declared_sha256))
  }
  for (const [name, value] of Object.entries(file.metadata)) {
    if (name === "mtime" && SECONDS.test(value)) add("Modified", saySeconds(value))
    else add(name === "path" ? "Path" : showName(name), makeName(value))
  }
  add("Created", sayTime(file.created_at))
  if (file.upload_date) add("Proved", sayTime(file.upload_date))
  if (file.state === "pending") add("Expires", sayTime(file.expires_at))
  add(
    "ID",
    make("code", {}, id),
    makeCopyButton(() => id, "Copy the ID"),
  )
  return list
}

/** @param {HistoryEntry[]} history */
export function makeHistory(history) {
  if (history.length === 0) return []
  const entries = history.map(({ at, state, by, why }) => {
    const cause = by ? `, by ${CAUSES[by] ?? by}` : ""
    const text = `${sayTime(at)}${cause}${why ? `: ${why}` : ""}`
    return make("li", {}, makePill(state), make("span", {}, text))
  })
  return [make("h3", {}, "History"), make("ol", { class: "history" }, ...entries)]
}

/** @param {string} seconds since 1970 */
function saySeconds(seconds) {
  return sayTime(new Date(Number(seconds) * 1000).toISOString())
}
