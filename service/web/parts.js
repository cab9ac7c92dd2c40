/**
 * A large file in parts, several in flight.
 *
 * 1. Ask the store what it has; a part of the right size is done.
 * 2. For each other part: digest it, have its URL signed with that digest, PUT it. A file that changes in between: the store refuses.
 *    403: the URL has ended, sign again. 404: the store has no such upload: `complete` knows what became of it.
 * 3. The first part's digest is remembered, to notice after a reload that the file is another one.
 * 4. One part fails for good: the others are stopped, what they had sent stays at the store.
 */

import { Refused } from "./api.js"
import { digestPiece } from "./digests.js"
import { retry } from "./retries.js"
import { put } from "./sending.js"
import { sayStoreRefusal } from "./words.js"

const MOST_IN_FLIGHT = 4
/** Of parts in memory, to be digested and sent. */
const MOST_BYTES = 256 * 1024 ** 2
const MOST_FRESH_URLS = 4

/** Begin again: anew, with another file at the server, or with the same. */
export class Again extends Error {
  /** @param {string} why @param {boolean} anew */
  constructor(why, anew) {
    super(why)
    this.anew = anew
  }
}

/**
 * @param {import("./upload.js").Upload} upload
 * @param {{part_size: number, parts: number}} plan
 * @param {AbortSignal} signal
 */
export async function sendParts(upload, plan, signal) {
  const sending = new Sending(upload, plan)
  await sending.findDone(signal)
  const ending = new AbortController()
  const either = AbortSignal.any([signal, ending.signal])
  const count = Math.max(1, Math.min(MOST_IN_FLIGHT, Math.floor(MOST_BYTES / plan.part_size)))
  const lanes = Array.from({ length: count }, () => sending.sendOneByOne(either))
  try {
    await Promise.all(lanes)
  } catch (error) {
    ending.abort(error)
    await Promise.allSettled(lanes)
    throw error
  }
}

class Sending {
  /** @param {import("./upload.js").Upload} upload @param {{part_size: number, parts: number}} plan */
  constructor(upload, plan) {
    this.upload = upload
    this.plan = plan
    this.left = /** @type {number[]} */ ([])
    this.sent = /** @type {Map<number, number>} */ (new Map())
  }

  /** @param {number} number from 1 on */
  cut(number) {
    const start = (number - 1) * this.plan.part_size
    return { start, end: Math.min(start + this.plan.part_size, this.upload.file.size) }
  }

  /** @param {AbortSignal} signal */
  async findDone(signal) {
    const there = await this.ask("GET", undefined, signal)
    for (const { number, size } of there.parts) {
      const { start, end } = this.cut(number)
      if (size === end - start) this.sent.set(number, size)
    }
    for (let number = 1; number <= this.plan.parts; number++) if (!this.sent.has(number)) this.left.push(number)
    this.report()
  }

  /** @param {AbortSignal} signal */
  async sendOneByOne(signal) {
    for (let number = this.left.shift(); number !== undefined; number = this.left.shift()) await this.sendPart(number, signal)
  }

  /** @param {number} number @param {AbortSignal} signal */
  async sendPart(number, signal) {
    const { start, end } = this.cut(number)
    const piece = this.upload.file.slice(start, end) // sent itself: Chromium takes ten times as long for the bytes that were digested
    const sha256 = await digestPiece(piece)
    const progress = (/** @type {number} */ sent) => {
      this.sent.set(number, Math.max(sent, this.sent.get(number) ?? 0))
      this.report()
    }
    for (let urls = 1; ; urls++) {
      const [signed] = (await this.ask("POST", { parts: [{ number, sha256 }] }, signal)).parts
      const { status, code } = await retry(() => put(signed, piece, { signal, progress }), { signal, say: this.upload.say })
      if (status < 300) break
      if (status === 404) throw new Again("The store has no such upload any more.", false)
      if (status !== 403 || urls === MOST_FRESH_URLS) throw new Error(sayStoreRefusal(status, code))
    }
    progress(end - start)
    if (sha256 && !this.upload.sample) await this.upload.remember({ start, end, sha256 })
  }

  /** @param {string} method @param {unknown} body @param {AbortSignal} signal */
  async ask(method, body, signal) {
    try {
      return await this.upload.api.retry(method, `files/${this.upload.id}/parts`, { body, signal, say: this.upload.say })
    } catch (error) {
      if (error instanceof Refused && (error.status === 410 || error.kind === "upload-lost")) {
        throw new Again("The store no longer had what was sent, or its time had ended, so it begins anew.", true)
      }
      if (error instanceof Refused && error.kind === "already-uploaded") throw new Again("The bytes are there already.", false)
      throw error
    }
  }

  report() {
    let sum = 0
    for (const bytes of this.sent.values()) sum += bytes
    this.upload.progress(sum)
  }
}
