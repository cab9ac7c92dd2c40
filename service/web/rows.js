/** The uploads as they are seen: a row each, for as many as one can look at, and how far all of it is. */

import { announceFile } from "./announcing.js"
import { find, make, makeCopyButton, makeName, setText, show, showName } from "./elements.js"
import { Summary } from "./summary.js"
import { sayBytes } from "./words.js"

const MOST_ROWS = 100
const EVERY_MILLISECONDS = 100
const PLAIN = /** @type {Record<string, string>} */ ({
  waiting: "Waits its turn", starting: "Getting ready", proving: "Verifying", ready: "Ready", cancelled: "Cancelled",
})
const TOLD = /** @type {Record<string, string>} */ ({ ready: "proved and ready", rejected: "rejected", failed: "failed" })

/** @typedef {import("./upload.js").Upload} Upload */

export class Rows {
  /** @param {import("./uploads.js").Uploads} uploads */
  constructor(uploads) {
    this.uploads = uploads
    this.rows = /** @type {Map<Upload, Row>} */ (new Map())
    this.changed = /** @type {Set<Upload>} */ (new Set())
    this.shown = /** @type {WeakSet<Upload>} */ (new WeakSet())
    this.list = find("uploads", HTMLUListElement)
    this.summary = new Summary(uploads)
    this.isPlanned = false
    uploads.addEventListener("added", () => this.plan())
    uploads.addEventListener("removed", (event) => this.remove(whose(event)))
    uploads.addEventListener("progress", (event) => this.plan(whose(event)))
    uploads.addEventListener("change", (event) => this.hear(whose(event)))
  }

  /** @param {Upload} upload */
  hear(upload) {
    if (TOLD[upload.state]) announceFile(TOLD[upload.state], showName(upload.file.name))
    this.plan(upload)
  }

  /** Ten times a second, however much happens: drawing takes time from sending. @param {Upload} [upload] */
  plan(upload) {
    if (upload) this.changed.add(upload)
    if (this.isPlanned) return
    this.isPlanned = true
    setTimeout(() => requestAnimationFrame(() => this.draw()), EVERY_MILLISECONDS)
  }

  draw() {
    this.isPlanned = false
    this.fill()
    for (const upload of this.changed) this.rows.get(upload)?.draw()
    this.changed.clear()
    show(find("sending", HTMLElement), this.uploads.all.length > 0)
    this.summary.draw(this.uploads.all.filter((upload) => upload.state !== "ready" && !this.rows.has(upload)).length)
  }

  /** A row for each that never had one, while there is room; those that are proved make room. */
  fill() {
    for (const upload of this.uploads.all) {
      if (this.shown.has(upload)) continue
      if (this.rows.size >= MOST_ROWS && !this.makeRoom()) return
      const row = new Row(this.uploads, upload)
      this.shown.add(upload)
      this.rows.set(upload, row)
      this.list.append(row.element)
    }
  }

  makeRoom() {
    for (const [upload, row] of this.rows) {
      if (upload.state !== "ready" || row.element.contains(document.activeElement)) continue
      row.element.remove()
      this.rows.delete(upload)
      return true
    }
    return false
  }

  /** @param {Upload} upload */
  remove(upload) {
    const row = this.rows.get(upload)
    this.rows.delete(upload)
    this.changed.delete(upload)
    if (row?.element.contains(document.activeElement)) find("uploads-title", HTMLElement).focus()
    row?.element.remove()
    this.plan()
  }
}

/** @param {Event} event @returns {Upload} */
function whose(event) {
  return /** @type {CustomEvent<Upload>} */ (event).detail
}

class Row {
  /** @param {import("./uploads.js").Uploads} uploads @param {Upload} upload */
  constructor(uploads, upload) {
    this.uploads = uploads
    this.upload = upload
    const name = showName(upload.file.name)
    this.status = make("span", { class: "status" })
    this.bar = make("progress", { max: Math.max(1, upload.file.size), value: 0, "aria-label": `Sent of ${name}` })
    this.percent = make("span", { class: "percent" })
    this.toggle = make("button", { type: "button", class: "small", onclick: () => this.turn() }, "Pause")
    this.stop = make("button", { type: "button", class: "small", onclick: () => this.end() }, "Cancel")
    this.copy = makeCopyButton(() => upload.hash, `Copy the SHA-256 of ${name}`)
    this.element = make(
      "li", { class: "upload" },
      make("div", { class: "what" }, makeName(upload.file.name, { class: "name" }), this.makeFolder()),
      make("span", { class: "size" }, sayBytes(upload.file.size)),
      make("div", { class: "buttons" }, this.copy, this.toggle, this.stop),
      make("div", { class: "way" }, this.bar, this.percent),
      this.status,
    )
    this.draw()
  }

  makeFolder() {
    const folder = this.upload.path.slice(0, -this.upload.file.name.length)
    return folder ? makeName(folder, { class: "folder" }) : null
  }

  /** Pause, resume, or try again, whichever there is. */
  turn() {
    const { state } = this.upload
    if (this.upload.isRunning || state === "waiting") this.uploads.pause(this.upload)
    else void this.uploads.queue(this.upload, this.upload.wasThere)
  }

  end() {
    if (["failed", "rejected", "ready"].includes(this.upload.state)) this.uploads.remove([this.upload])
    else void this.uploads.cancel(this.upload).catch(() => undefined) // what was not deleted ends by itself
  }

  draw() {
    const { upload } = this
    const { state } = upload
    if (this.element.dataset.state !== state) this.element.dataset.state = state
    const part = upload.file.size ? upload.sent / upload.file.size : Number(state === "ready" || state === "proving")
    this.bar.value = upload.file.size ? upload.sent : part
    setText(this.percent, `${Math.floor(part * 100)} %`)
    setText(this.status, this.say(state))
    this.drawButtons(state, upload.wasThere)
  }

  /** @param {string} state */
  say(state) {
    const { upload } = this
    const spoken = upload.hindrance || upload.note
    if (state === "failed" || state === "rejected") return `${state === "failed" ? "Failed" : "Rejected"}: ${upload.note}`
    if (state === "ready") return `${spoken ? `${spoken} ` : ""}Ready, SHA-256 ${upload.hash}`
    if (state === "paused") return `Paused. ${upload.sent ? `${sayBytes(upload.sent)} of ${sayBytes(upload.file.size)} are sent.` : ""}`
    if (state === "sending") return `${sayBytes(upload.sent)} sent${spoken ? `. ${spoken}` : ""}`
    return spoken ? `${PLAIN[state]}. ${spoken}` : PLAIN[state]
  }

  /** @param {string} state @param {boolean} wasThere */
  drawButtons(state, wasThere) {
    const labels = /** @type {Record<string, string>} */ ({ paused: "Resume", failed: "Try again", rejected: "Send again", ready: "Send again" })
    const isOver = ["failed", "rejected", "ready"].includes(state)
    this.label(this.toggle, labels[state] ?? "Pause")
    this.label(this.stop, isOver ? "Dismiss" : "Cancel")
    const hadFocus = this.element.contains(document.activeElement)
    show(this.copy, state === "ready")
    show(this.toggle, state !== "proving" && (state !== "ready" || wasThere))
    if (hadFocus && !this.element.contains(document.activeElement)) this.stop.focus()
  }

  /** @param {HTMLButtonElement} button @param {string} text */
  label(button, text) {
    if (button.textContent === text) return
    setText(button, text)
    button.setAttribute("aria-label", `${text} ${showName(this.upload.file.name)}`)
  }
}
