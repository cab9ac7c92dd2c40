/**
 * The queue of this page's uploads. A few of them run at once.
 *
 * Events: `added`, `removed`, `change` (of an upload's state), `progress`. `detail` is the upload.
 */

import { SETTLED, Upload } from "./upload.js"

export const FILES_AT_ONCE = 4

/** @typedef {{file: File, path: string}} Chosen */

/**
 * @typedef {object} Totals
 * @property {number} count
 * @property {number} bytes without failed and rejected uploads
 * @property {number} sent without failed and rejected uploads
 * @property {Record<string, number>} states how many uploads are in each state
 */

export class Uploads extends EventTarget {
  /**
   * @param {Pick<import("./api.js").Api, "retry">} api
   * @param {import("./sending.js").Deliver} [deliver]
   */
  constructor(api, deliver) {
    super()
    this.api = api
    this.deliver = deliver
    this.all = /** @type {Upload[]} */ ([])
    this.running = /** @type {Set<Upload>} */ (new Set())
  }

  /**
   * Queue the chosen files, and return how many were queued. A file that is already in progress is
   * not queued again.
   * @param {Chosen[]} chosen
   */
  add(chosen) {
    const unsettled = this.all.filter((upload) => !SETTLED.has(upload.state))
    const inProgress = new Set(unsettled.map((upload) => upload.identity))
    let added = 0
    for (const { file, path } of chosen) {
      const upload = new Upload(this.api, file, path, this.deliver)
      if (inProgress.has(upload.identity)) continue
      inProgress.add(upload.identity)
      this.all.push(upload)
      this.watch(upload)
      added++
    }
    this.fill()
    return added
  }

  /** @param {Upload} upload */
  watch(upload) {
    upload.addEventListener("change", () => this.dispatch("change", upload))
    upload.addEventListener("progress", () => this.dispatch("progress", upload))
    this.dispatch("added", upload)
  }

  /**
   * @param {string} type
   * @param {Upload} upload
   */
  dispatch(type, upload) {
    this.dispatchEvent(new CustomEvent(type, { detail: upload }))
  }

  /** Start waiting uploads while there are free places. */
  fill() {
    for (const upload of this.all) {
      if (this.running.size >= FILES_AT_ONCE) return
      if (upload.state === "waiting" && !this.running.has(upload)) void this.start(upload)
    }
  }

  /** @param {Upload} upload */
  async start(upload) {
    this.running.add(upload)
    await upload.run()
    this.running.delete(upload)
    this.fill()
  }

  /** @param {Upload} upload */
  pause(upload) {
    upload.pause()
    this.fill()
  }

  /**
   * Queue an upload again, to resume it, to try it again, or to send it as a new file.
   * @param {Upload} upload
   * @param {boolean} asNewFile
   */
  async queue(upload, asNewFile = false) {
    await upload.queue(asNewFile)
    this.fill()
  }

  /** @param {Upload} upload */
  async cancel(upload) {
    const cancelled = upload.cancel()
    this.remove([upload])
    await cancelled
  }

  pauseAll() {
    for (const upload of this.all) upload.pause()
  }

  resumeAll() {
    return this.queueAll("paused")
  }

  retryAll() {
    return this.queueAll("failed")
  }

  /** @param {string} state */
  async queueAll(state) {
    for (const upload of this.all) {
      if (upload.state === state) await upload.queue()
    }
    this.fill()
  }

  /**
   * Cancel the uploads whose bytes are not all sent. The server continues with the others.
   * @returns {Promise<unknown>}
   */
  cancelAll() {
    const unsent = this.all.filter(isUnsent)
    const cancelled = Promise.allSettled(unsent.map((upload) => upload.cancel()))
    this.remove(unsent)
    return cancelled
  }

  /** Remove the uploads that are ready. The list of files shows them. */
  clear() {
    this.remove(this.all.filter((upload) => upload.state === "ready"))
  }

  /** @param {Upload[]} uploads */
  remove(uploads) {
    const removed = new Set(uploads)
    this.all = this.all.filter((upload) => !removed.has(upload))
    for (const upload of uploads) this.dispatch("removed", upload)
    this.fill()
  }

  /**
   * @param {string} id
   * @returns {Upload | undefined}
   */
  byId(id) {
    return this.all.find((upload) => upload.id === id)
  }

  get proving() {
    return this.all.filter((upload) => upload.state === "proving")
  }

  /** Whether closing the page would interrupt an upload. */
  get isBusy() {
    return this.all.some(isUnsent)
  }

  /** @returns {Totals} */
  sum() {
    /** @type {Totals} */
    const totals = { count: this.all.length, bytes: 0, sent: 0, states: {} }
    for (const upload of this.all) {
      totals.states[upload.state] = (totals.states[upload.state] ?? 0) + 1
      if (upload.state === "failed" || upload.state === "rejected") continue
      totals.bytes += upload.file.size
      totals.sent += upload.sent
    }
    return totals
  }
}

/** @param {Upload} upload */
function isUnsent(upload) {
  return !SETTLED.has(upload.state) && upload.state !== "proving"
}
