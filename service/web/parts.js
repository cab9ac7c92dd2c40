/**
 * A large file, sent in parts.
 *
 * 1. Ask the API which parts the store has. A part of the right size is not sent again.
 * 2. For each other part: compute its digest, have a URL signed that is bound to this digest, and
 *    send a PUT. The store refuses the part if the file changes in between. If digests would slow
 *    the upload down, the URL binds none, and nothing compares what arrives with what was read.
 *    - 403: the URL has expired. Have another URL signed.
 *    - 404: the store has no such multipart upload. The response to `complete` says why.
 *    - Another refusal: the file fails.
 * 3. Remember the digest of the first part that was sent. After a reload it shows whether the file
 *    has changed.
 * 4. If one part fails, stop the others. The parts that were sent stay at the store.
 *
 * At most four parts, of 256 MiB in all, are in memory at once.
 */

import { Refused } from "./api.js"
import { digestPiece } from "./digests.js"
import { MOST_FRESH_URLS } from "./sending.js"
import { sayStoreRefusal } from "./words.js"

const MOST_IN_FLIGHT = 4
const MOST_BYTES_IN_FLIGHT = 256 * 1024 ** 2
/** A part is digested if that takes at most this share of the time that sending one takes. */
const DIGEST_SHARE = 1 / 8

/** @typedef {{part_size: number, parts: number}} Plan */

/** The error after which the upload starts again, as a new file or with the same one. */
export class StartAgain extends Error {
  /**
   * @param {string} why
   * @param {boolean} asNewFile
   */
  constructor(why, asNewFile) {
    super(why)
    this.asNewFile = asNewFile
  }
}

/**
 * Send the parts that the store does not have. Throw StartAgain if the server no longer has the
 * multipart upload.
 * @param {import("./upload.js").Upload} upload
 * @param {Plan} plan
 * @param {AbortSignal} signal
 */
export async function sendParts(upload, plan, signal) {
  const parts = new Parts(upload, plan)
  await parts.findStored(signal)
  const failure = new AbortController()
  const eitherSignal = AbortSignal.any([signal, failure.signal])
  const senders = Array.from({ length: countInFlight(plan.part_size) }, () =>
    parts.sendOneByOne(eitherSignal),
  )
  try {
    await Promise.all(senders)
  } catch (error) {
    failure.abort(error)
    await Promise.allSettled(senders)
    throw error
  }
}

/**
 * Return how many parts may be in memory at once: at least one.
 * @param {number} partSize
 */
export function countInFlight(partSize) {
  return Math.max(1, Math.min(MOST_IN_FLIGHT, Math.floor(MOST_BYTES_IN_FLIGHT / partSize)))
}

class Parts {
  /**
   * @param {import("./upload.js").Upload} upload
   * @param {Plan} plan
   */
  constructor(upload, plan) {
    this.upload = upload
    this.plan = plan
    this.unsent = /** @type {number[]} */ ([])
    this.sentBytes = /** @type {Map<number, number>} */ (new Map())
    /** The durations of the last digest and of the last PUT. */
    this.digestMilliseconds = 0
    this.sendMilliseconds = Infinity
  }

  /** @param {number} number from 1 */
  locate(number) {
    const start = (number - 1) * this.plan.part_size
    return { start, end: Math.min(start + this.plan.part_size, this.upload.file.size) }
  }

  /** @param {AbortSignal} signal */
  async findStored(signal) {
    const stored = await this.ask("GET", undefined, signal)
    for (const { number, size } of stored.parts) {
      const { start, end } = this.locate(number)
      if (size === end - start) this.sentBytes.set(number, size)
    }
    for (let number = 1; number <= this.plan.parts; number++) {
      if (!this.sentBytes.has(number)) this.unsent.push(number)
    }
    this.report()
  }

  /** @param {AbortSignal} signal */
  async sendOneByOne(signal) {
    for (;;) {
      const number = this.unsent.shift()
      if (number === undefined) return
      await this.send(number, signal)
    }
  }

  /**
   * @param {number} number
   * @param {AbortSignal} signal
   */
  async send(number, signal) {
    const { upload } = this
    const { start, end } = this.locate(number)
    // The slice itself is sent. Chromium needs ten times as long for the buffer that was digested.
    const piece = upload.file.slice(start, end)
    const sha256 = await this.digest(piece)
    const progress = (/** @type {number} */ sent) => {
      this.sentBytes.set(number, Math.max(sent, this.sentBytes.get(number) ?? 0))
      this.report()
    }
    for (let urls = 1; ; urls++) {
      const [signed] = (await this.ask("POST", { parts: [{ number, sha256 }] }, signal)).parts
      const options = { signal, progress, say: upload.say }
      const begun = performance.now()
      const { status, code } = await upload.deliver(signed, piece, options)
      if (status < 300) {
        this.sendMilliseconds = performance.now() - begun
        break
      }
      if (status === 404) {
        throw new StartAgain("The store no longer has this upload.", false)
      }
      if (status !== 403 || urls === MOST_FRESH_URLS) {
        throw new Error(sayStoreRefusal(status, code))
      }
    }
    progress(end - start)
    if (sha256 && !upload.sample) await upload.remember({ start, end, sha256 })
  }

  /**
   * Return the digest of the part, or undefined if the line is too fast for digests.
   * @param {Blob} piece
   */
  async digest(piece) {
    if (this.digestMilliseconds > this.sendMilliseconds * DIGEST_SHARE) return undefined
    const begun = performance.now()
    const sha256 = await digestPiece(piece)
    this.digestMilliseconds = performance.now() - begun
    return sha256
  }

  /**
   * @param {string} method
   * @param {unknown} body
   * @param {AbortSignal} signal
   */
  async ask(method, body, signal) {
    const { api, id, say } = this.upload
    try {
      return await api.retry(method, `files/${id}/parts`, { body, signal, say })
    } catch (error) {
      if (error instanceof Refused && (error.status === 410 || error.kind === "upload-lost")) {
        throw new StartAgain(
          "The earlier upload was lost or has expired. Restarting the upload.",
          true,
        )
      }
      if (error instanceof Refused && error.kind === "already-uploaded") {
        throw new StartAgain("The store already has the file.", false)
      }
      throw error
    }
  }

  report() {
    let sum = 0
    for (const bytes of this.sentBytes.values()) sum += bytes
    this.upload.progress(sum)
  }
}
