/**
 * All files of this page that are on their way: a queue, a few at once.
 *
 * Events: `added`, `removed`, `change` (an upload's state), `progress`. `detail` is the upload.
 */

import { SETTLED, Upload } from "./upload.js"

const FILES_AT_ONCE = 4

/** @typedef {{file: File, path: string}} Chosen */

export class Uploads extends EventTarget {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super()
    this.api = api
    this.all = /** @type {Upload[]} */ ([])
    this.running = new Set()
  }

  /** How many were taken; one that is under way already is not taken twice. @param {Chosen[]} chosen */
  add(chosen) {
    const underWay = new Set(this.all.filter((upload) => !SETTLED.has(upload.state)).map((upload) => upload.identity))
    let taken = 0
    for (const { file, path } of chosen) {
      const upload = new Upload(this.api, file, path)
      if (underWay.has(upload.identity)) continue
      underWay.add(upload.identity)
      this.all.push(upload)
      this.watch(upload)
      taken++
    }
    this.fill()
    return taken
  }

  /** @param {Upload} upload */
  watch(upload) {
    upload.addEventListener("change", () => this.tell("change", upload))
    upload.addEventListener("progress", () => this.tell("progress", upload))
    this.tell("added", upload)
  }

  /** @param {string} type @param {Upload} upload */
  tell(type, upload) {
    this.dispatchEvent(new CustomEvent(type, { detail: upload }))
  }

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

  /** Resume, retry, or send again. @param {Upload} upload @param {boolean} anew */
  async queue(upload, anew = false) {
    await upload.queue(anew)
    this.fill()
  }

  /** @param {Upload} upload */
  async cancel(upload) {
    const done = upload.cancel()
    this.remove([upload])
    await done
  }

  pauseAll() {
    for (const upload of this.all) upload.pause()
  }

  /** Those that were paused. */
  async resumeAll() {
    for (const upload of this.all) if (upload.state === "paused") await upload.queue()
    this.fill()
  }

  async retryAll() {
    for (const upload of this.all) if (upload.state === "failed") await upload.queue()
    this.fill()
  }

  /** Whatever is not over. @returns {Promise<unknown>} */
  cancelAll() {
    const open = this.all.filter((upload) => !SETTLED.has(upload.state) && upload.state !== "proving")
    const done = Promise.allSettled(open.map((upload) => upload.cancel()))
    this.remove(open)
    return done
  }

  /** Takes away what is proved: it stands among the files. */
  clear() {
    this.remove(this.all.filter((upload) => upload.state === "ready"))
  }

  /** @param {Upload[]} gone */
  remove(gone) {
    const taken = new Set(gone)
    this.all = this.all.filter((upload) => !taken.has(upload))
    for (const upload of gone) this.tell("removed", upload)
    this.fill()
  }

  /** @param {string} id @returns {Upload | undefined} */
  byId(id) {
    return this.all.find((upload) => upload.id === id)
  }

  get proving() {
    return this.all.filter((upload) => upload.state === "proving")
  }

  get isBusy() {
    return this.all.some((upload) => !SETTLED.has(upload.state) && upload.state !== "proving")
  }

  /** How far all of it is. */
  sum() {
    const sums = { count: this.all.length, bytes: 0, sent: 0, states: /** @type {Record<string, number>} */ ({}) }
    for (const upload of this.all) {
      sums.states[upload.state] = (sums.states[upload.state] ?? 0) + 1
      if (upload.state === "failed" || upload.state === "rejected") continue
      sums.bytes += upload.file.size
      sums.sent += upload.sent
    }
    return sums
  }
}
