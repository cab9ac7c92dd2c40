/** The progress, the rate and the remaining time of all uploads, and the buttons for them. */

import { find, setText, show } from "./elements.js"
import { sayBytes, sayCount, sayLeft } from "./words.js"

const EVERY_MILLISECONDS = 400
const RATE_MILLISECONDS = 1000
const WINDOW_MILLISECONDS = 8000
const SHORTEST_WINDOW_MILLISECONDS = 500

/** The states that the summary counts, and the words for them. @type {[string, string][]} */
const COUNTED = [
  ["ready", "ready"],
  ["proving", "being verified"],
  ["paused", "paused"],
  ["rejected", "rejected"],
  ["failed", "failed"],
]

/** @typedef {import("./uploads.js").Totals} Totals */

export class Summary {
  /** @param {import("./uploads.js").Uploads} uploads */
  constructor(uploads) {
    this.uploads = uploads
    this.rate = new Rate()
    this.drawnAt = 0
    this.timer = 0
    this.hidden = 0
    this.bar = find("all-bar", HTMLProgressElement)
    this.text = find("all-text", HTMLElement)
    this.speed = find("all-speed", HTMLElement)
    /** @type {Record<string, () => unknown>} */
    const actions = {
      "pause-all": () => uploads.pauseAll(),
      "resume-all": () => uploads.resumeAll(),
      "retry-all": () => uploads.retryAll(),
      "cancel-all": () => uploads.cancelAll(),
      "clear-all": () => uploads.clear(),
    }
    this.buttons = /** @type {Record<string, HTMLButtonElement>} */ ({})
    for (const [id, act] of Object.entries(actions)) {
      this.buttons[id] = find(id, HTMLButtonElement)
      this.buttons[id].addEventListener("click", act)
    }
  }

  /**
   * Draw now or soon: a few times per second, so that a person can read the numbers.
   * @param {number} hidden how many waiting uploads have no row
   */
  draw(hidden) {
    this.hidden = hidden
    clearTimeout(this.timer)
    const wait = this.drawnAt + EVERY_MILLISECONDS - performance.now()
    if (wait <= 0) this.drawNow()
    else this.timer = window.setTimeout(() => this.drawNow(), wait)
  }

  drawNow() {
    this.drawnAt = performance.now()
    const totals = this.uploads.sum()
    const rate = this.rate.add(totals.sent, this.drawnAt)
    this.bar.max = Math.max(1, totals.bytes)
    this.bar.value = totals.sent
    setText(this.text, describeCounts(totals))
    setText(this.speed, describeProgress(totals, rate))
    const unseen = find("unseen", HTMLElement)
    setText(unseen, describeHidden(this.hidden))
    show(unseen, this.hidden > 0)
    this.drawButtons(totals.states)
    // The rate falls while nothing is sent, so it is drawn without an event.
    if (totals.states.sending) {
      this.timer = window.setTimeout(() => this.drawNow(), RATE_MILLISECONDS)
    }
  }

  /** @param {Record<string, number>} states */
  drawButtons(states) {
    const usable = findUsableButtons(states)
    const focused = document.activeElement
    for (const [id, button] of Object.entries(this.buttons)) button.disabled = !usable[id]
    if (focused instanceof HTMLButtonElement && focused.disabled) {
      find("uploads-title", HTMLElement).focus()
    }
  }
}

/**
 * Return for each button whether it has any effect.
 * @param {Record<string, number>} states
 * @returns {Record<string, boolean>}
 */
export function findUsableButtons(states) {
  const open = (states.waiting ?? 0) + (states.starting ?? 0) + (states.sending ?? 0)
  const paused = states.paused ?? 0
  return {
    "pause-all": open > 0,
    "resume-all": paused > 0,
    "retry-all": (states.failed ?? 0) > 0,
    "cancel-all": open + paused > 0,
    "clear-all": (states.ready ?? 0) > 0,
  }
}

/**
 * Return how many uploads there are, and how many are in each state, such as "50 files · 2 failed".
 * @param {Totals} totals
 */
export function describeCounts({ count, states }) {
  const counts = COUNTED.filter(([state]) => states[state]).map(
    ([state, word]) => `${states[state].toLocaleString("en")} ${word}`,
  )
  return [sayCount(count, "file"), ...counts].join(" · ")
}

/**
 * Return how much is sent, and, while bytes are being sent, the rate and the remaining time.
 * @param {Totals} totals
 * @param {number} rate bytes per second, or 0 if it is not known
 */
export function describeProgress({ bytes, sent, states }, rate) {
  const progress = `${sayBytes(sent)} of ${sayBytes(bytes)}`
  if (!states.sending || rate <= 0) return progress
  return `${progress} · ${sayBytes(rate)}/s · ${sayLeft((bytes - sent) / rate)}`
}

/** @param {number} count how many waiting uploads have no row */
export function describeHidden(count) {
  if (count === 0) return ""
  return `${sayCount(count, "more file is", "more files are")} waiting`
}

/** The rate of the last few seconds. */
export class Rate {
  constructor() {
    this.samples = /** @type {{at: number, bytes: number}[]} */ ([])
  }

  /**
   * Add a sample, and return the bytes per second. Return 0 while the rate is not known.
   * @param {number} bytes how many bytes are sent so far
   * @param {number} at the time of the sample in milliseconds
   */
  add(bytes, at) {
    const last = this.samples.at(-1)
    // The sum falls when an upload starts again or is removed.
    if (last && bytes < last.bytes) this.samples = []
    this.samples.push({ at, bytes })
    while (this.samples.length > 2 && this.samples[0].at < at - WINDOW_MILLISECONDS) {
      this.samples.shift()
    }
    const [first] = this.samples
    const elapsed = at - first.at
    return elapsed < SHORTEST_WINDOW_MILLISECONDS ? 0 : ((bytes - first.bytes) / elapsed) * 1000
  }
}
