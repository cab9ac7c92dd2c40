/** The list of uploads. Only a limited number of uploads have a row, because drawing takes time. */

import { announceFile } from "./announcing.js"
import { find, make, makeCopyButton, makeName, setText, show, showName } from "./elements.js"
import { Summary } from "./summary.js"
import { sayBytes } from "./words.js"

const MOST_ROWS = 100
const DRAW_MILLISECONDS = 100

/** @type {Record<string, string>} */
const STATUSES = {
  waiting: "Waiting in the queue",
  starting: "Preparing",
  proving: "Verifying",
  ready: "Ready",
  cancelled: "Cancelled",
}

/** What is announced when an upload reaches one of these states. @type {Record<string, string>} */
const ANNOUNCED = { ready: "proved and ready", rejected: "rejected", failed: "failed" }

/**
 * The labels of the button that otherwise pauses the upload.
 * @type {Record<string, string>}
 */
const TOGGLE_LABELS = {
  paused: "Resume",
  failed: "Try again",
  rejected: "Send again",
  ready: "Send again",
}
const DISMISSIBLE = new Set(["failed", "rejected", "ready"])

/** @typedef {import("./upload.js").Upload} Upload */

export class Rows {
  /** @param {import("./uploads.js").Uploads} uploads */
  constructor(uploads) {
    this.uploads = uploads
    this.rows = /** @type {Map<Upload, Row>} */ (new Map())
    this.changed = /** @type {Set<Upload>} */ (new Set())
    this.hadRow = /** @type {WeakSet<Upload>} */ (new WeakSet())
    this.list = find("uploads", HTMLUListElement)
    this.summary = new Summary(uploads)
    this.isPlanned = false
    uploads.addEventListener("added", () => this.planDrawing())
    uploads.addEventListener("removed", (event) => this.remove(getUpload(event)))
    uploads.addEventListener("progress", (event) => this.drawSoon(getUpload(event)))
    uploads.addEventListener("change", (event) => {
      const upload = getUpload(event)
      const outcome = ANNOUNCED[upload.state]
      if (outcome) announceFile(outcome, showName(upload.file.name))
      this.drawSoon(upload)
    })
  }

  /** @param {Upload} upload */
  drawSoon(upload) {
    this.changed.add(upload)
    this.planDrawing()
  }

  /** Draw at most ten times a second, because drawing slows the uploads down. */
  planDrawing() {
    if (this.isPlanned) return
    this.isPlanned = true
    setTimeout(() => requestAnimationFrame(() => this.draw()), DRAW_MILLISECONDS)
  }

  draw() {
    this.isPlanned = false
    this.addRows()
    for (const upload of this.changed) this.rows.get(upload)?.draw()
    this.changed.clear()
    const { all } = this.uploads
    const hidden = all.filter((upload) => upload.state !== "ready" && !this.rows.has(upload))
    show(find("sending", HTMLElement), all.length > 0)
    this.summary.draw(hidden.length)
  }

  /** Add a row for each upload that never had one, while there is room. */
  addRows() {
    for (const upload of this.uploads.all) {
      if (this.hadRow.has(upload)) continue
      if (this.rows.size >= MOST_ROWS && !this.makeRoom()) return
      const row = new Row(this.uploads, upload)
      this.hadRow.add(upload)
      this.rows.set(upload, row)
      this.list.append(row.element)
    }
  }

  /** Remove a row that is ready and has no focus. Return false if there is no such row. */
  makeRoom() {
    for (const [upload, row] of this.rows) {
      if (upload.state !== "ready" || row.hasFocus) continue
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
    if (row?.hasFocus) find("uploads-title", HTMLElement).focus()
    row?.element.remove()
    this.planDrawing()
  }
}

/**
 * @param {Event} event
 * @returns {Upload}
 */
function getUpload(event) {
  return /** @type {CustomEvent<Upload>} */ (event).detail
}

class Row {
  /**
   * @param {import("./uploads.js").Uploads} uploads
   * @param {Upload} upload
   */
  constructor(uploads, upload) {
    this.uploads = uploads
    this.upload = upload
    const { file } = upload
    const name = showName(file.name)
    const max = Math.max(1, file.size)
    this.status = make("span", { class: "status" })
    this.bar = make("progress", { max, value: 0, "aria-label": `Progress of ${name}` })
    this.percent = make("span", { class: "percent" })
    this.toggleButton = makeButton("Pause", () => this.toggle())
    this.endButton = makeButton("Cancel", () => this.end())
    this.copyButton = makeCopyButton(() => upload.hash, `Copy the SHA-256 of ${name}`)
    this.element = make(
      "li",
      { class: "upload" },
      make("div", { class: "what" }, makeName(file.name, { class: "name" }), makeFolder(upload)),
      make("span", { class: "size" }, sayBytes(file.size)),
      make("div", { class: "buttons" }, this.copyButton, this.toggleButton, this.endButton),
      make("div", { class: "way" }, this.bar, this.percent),
      this.status,
    )
    this.draw()
  }

  get hasFocus() {
    return this.element.contains(document.activeElement)
  }

  /** Pause, resume or repeat the upload. */
  toggle() {
    const { upload } = this
    if (upload.isRunning || upload.state === "waiting") this.uploads.pause(upload)
    else void this.uploads.queue(upload, upload.wasThere)
  }

  /** Cancel the upload, or remove it from the list if it has ended. */
  end() {
    if (DISMISSIBLE.has(this.upload.state)) {
      this.uploads.remove([this.upload])
      return
    }
    // If the deletion fails, the file stays pending until it expires.
    void this.uploads.cancel(this.upload).catch(() => undefined)
  }

  draw() {
    const { state, sent, file } = this.upload
    if (this.element.dataset.state !== state) this.element.dataset.state = state
    const isSent = state === "ready" || state === "proving"
    const fraction = file.size > 0 ? sent / file.size : Number(isSent)
    this.bar.value = file.size > 0 ? sent : fraction
    setText(this.percent, `${Math.floor(fraction * 100)} %`)
    setText(this.status, describeStatus(this.upload))
    this.drawButtons()
  }

  drawButtons() {
    const { state, wasThere } = this.upload
    const { hasFocus } = this
    this.label(this.toggleButton, TOGGLE_LABELS[state] ?? "Pause")
    this.label(this.endButton, DISMISSIBLE.has(state) ? "Dismiss" : "Cancel")
    show(this.copyButton, state === "ready")
    show(this.toggleButton, state !== "proving" && (state !== "ready" || wasThere))
    // A button that is hidden loses the focus.
    if (hasFocus && !this.hasFocus) this.endButton.focus()
  }

  /**
   * @param {HTMLButtonElement} button
   * @param {string} text
   */
  label(button, text) {
    if (button.textContent === text) return
    setText(button, text)
    button.setAttribute("aria-label", `${text} ${showName(this.upload.file.name)}`)
  }
}

/**
 * @param {string} text
 * @param {() => void} action
 */
function makeButton(text, action) {
  return make("button", { type: "button", class: "small", onclick: action }, text)
}

/** @param {Upload} upload */
function makeFolder({ path, file }) {
  const folder = path.slice(0, -file.name.length)
  return folder ? makeName(folder, { class: "folder" }) : null
}

/** @param {Upload} upload */
function describeStatus({ state, hindrance, note, hash, sent, file }) {
  const remark = hindrance || note
  switch (state) {
    case "failed":
      return `Failed: ${note}`
    case "rejected":
      return `Rejected: ${note}`
    case "ready":
      return `${remark ? `${remark} ` : ""}Ready, SHA-256 ${hash}`
    case "paused":
      return sent ? `Paused. ${sayBytes(sent)} of ${sayBytes(file.size)} were sent.` : "Paused."
    case "sending":
      return `${sayBytes(sent)} sent${remark ? `. ${remark}` : ""}`
    default:
      return remark ? `${STATUSES[state]}. ${remark}` : STATUSES[state]
  }
}
