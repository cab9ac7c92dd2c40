/** What is told to those who listen instead of look: politely, and many things at once as one. */

import { find, setText } from "./elements.js"
import { sayCount } from "./words.js"

const GATHERED_MILLISECONDS = 1500
const pending = /** @type {Map<string, string[]>} */ (new Map())
let timer = 0

/** One thing that happened now. @param {string} text */
export function announce(text) {
  pending.set(text, [text])
  timer ||= window.setTimeout(tell, GATHERED_MILLISECONDS)
}

/** One of many alike: "12 files are proved". @param {string} kind such as "proved" @param {string} name of a file */
export function announceFile(kind, name) {
  pending.set(kind, [...(pending.get(kind) ?? []), name])
  timer ||= window.setTimeout(tell, GATHERED_MILLISECONDS)
}

function tell() {
  timer = 0
  const said = [...pending].map(([kind, names]) => {
    if (names[0] === kind) return kind
    return names.length === 1 ? `${names[0]}: ${kind}` : `${sayCount(names.length, "file")}: ${kind}`
  })
  pending.clear()
  setText(find("said", HTMLElement), said.join(". "))
}
