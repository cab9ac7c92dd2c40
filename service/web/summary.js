/** How far all uploads are together, how fast, how long still; and the buttons for all of them. */

import { find, setText, show } from "./elements.js"
import { sayBytes, sayCount, sayLeft } from "./words.js"

const EVERY_MILLISECONDS = 400
const WINDOW_MILLISECONDS = 8000

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
    this.buttons = /** @type {Record<string, HTMLButtonElement>} */ ({})
    const actions = /** @type {Record<string, () => unknown>} */ ({
      "pause-all": () => uploads.pauseAll(), "resume-all": () => uploads.resumeAll(), "retry-all": () => uploads.retryAll(),
      "cancel-all": () => uploads.cancelAll(), "clear-all": () => uploads.clear(),
    })
    for (const [id, act] of Object.entries(actions)) {
      this.buttons[id] = find(id, HTMLButtonElement)
      this.buttons[id].addEventListener("click", act)
    }
  }

  /** A few times a second, so that it can be read. @param {number} hidden uploads that wait without a row */
  draw(hidden) {
    this.hidden = hidden
    clearTimeout(this.timer)
    const wait = this.drawnAt + EVERY_MILLISECONDS - performance.now()
    if (wait <= 0) this.drawNow()
    else this.timer = window.setTimeout(() => this.drawNow(), wait)
  }

  drawNow() {
    this.drawnAt = performance.now()
    const { count, bytes, sent, states } = this.uploads.sum()
    const rate = this.rate.add(sent)
    const isSending = (states.sending ?? 0) > 0
    this.bar.max = Math.max(1, bytes)
    this.bar.value = sent
    setText(this.text, describe(count, states))
    const left = isSending && rate > 0 ? ` · ${sayBytes(rate)}/s · ${sayLeft((bytes - sent) / rate)}` : ""
    setText(this.speed, `${sayBytes(sent)} of ${sayBytes(bytes)}${left}`)
    const unseen = find("unseen", HTMLElement)
    setText(unseen, this.hidden ? `${sayCount(this.hidden, "more file")} ${this.hidden === 1 ? "waits its" : "wait their"} turn` : "")
    show(unseen, this.hidden > 0)
    this.drawButtons(states)
    if (isSending) this.timer = window.setTimeout(() => this.drawNow(), 1000) // a rate falls also when nothing happens
  }

  /** @param {Record<string, number>} states */
  drawButtons(states) {
    const open = (states.waiting ?? 0) + (states.starting ?? 0) + (states.sending ?? 0)
    const usable = /** @type {Record<string, boolean>} */ ({
      "pause-all": open > 0, "resume-all": (states.paused ?? 0) > 0, "retry-all": (states.failed ?? 0) > 0,
      "cancel-all": open + (states.paused ?? 0) > 0, "clear-all": (states.ready ?? 0) > 0,
    })
    const focused = document.activeElement
    for (const [id, button] of Object.entries(this.buttons)) button.disabled = !usable[id]
    if (focused instanceof HTMLButtonElement && focused.disabled) find("uploads-title", HTMLElement).focus()
  }
}

/** @param {number} count @param {Record<string, number>} states */
function describe(count, states) {
  const shown = [["ready", "ready"], ["proving", "being verified"], ["paused", "paused"], ["rejected", "rejected"], ["failed", "failed"]]
  const said = shown.filter(([state]) => states[state]).map(([state, word]) => `${states[state].toLocaleString("en")} ${word}`)
  return [sayCount(count, "file"), ...said].join(" · ")
}

/** Bytes a second over the last few seconds. */
class Rate {
  constructor() {
    this.samples = /** @type {{at: number, bytes: number}[]} */ ([])
  }

  /** @param {number} bytes sent so far */
  add(bytes) {
    const at = performance.now()
    const last = this.samples.at(-1)
    if (last && bytes < last.bytes) this.samples = [] // something was begun anew, or taken away
    this.samples.push({ at, bytes })
    while (this.samples[0].at < at - WINDOW_MILLISECONDS && this.samples.length > 2) this.samples.shift()
    const first = this.samples[0]
    return at - first.at < 500 ? 0 : (bytes - first.bytes) / (at - first.at) * 1000
  }
}
