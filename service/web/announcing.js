/** Announcements to screen readers. Those of a short time are announced together. */

import { find, setText } from "./elements.js"
import { sayCount } from "./words.js"

const GATHERED_MILLISECONDS = 1500

/** @typedef {Map<string, string[]>} Announcements the names of the files for each text, if any */

const pending = /** @type {Announcements} */ (new Map())
let timer = 0

/** @param {string} text */
export function announce(text) {
  pending.set(text, [])
  timer ||= window.setTimeout(announcePending, GATHERED_MILLISECONDS)
}

/**
 * Announce what happened to a file. Several files are announced as "12 files: failed".
 * @param {string} outcome such as "failed"
 * @param {string} name
 */
export function announceFile(outcome, name) {
  pending.set(outcome, [...(pending.get(outcome) ?? []), name])
  timer ||= window.setTimeout(announcePending, GATHERED_MILLISECONDS)
}

function announcePending() {
  timer = 0
  const text = sayTogether(pending)
  pending.clear()
  setText(find("said", HTMLElement), text)
}

/**
 * Return one text for all announcements.
 * @param {Announcements} announcements
 */
export function sayTogether(announcements) {
  return [...announcements].map(([text, names]) => sayOne(text, names)).join(". ")
}

/**
 * @param {string} text
 * @param {string[]} names
 */
function sayOne(text, names) {
  if (names.length === 0) return text
  return names.length === 1 ? `${names[0]}: ${text}` : `${sayCount(names.length, "file")}: ${text}`
}
