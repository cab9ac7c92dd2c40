/**
 * PUT requests to the store. They use XMLHttpRequest, because `fetch` does not report how many
 * bytes were sent. No API key is ever sent to the store.
 */

import { isTransientStatus, Unreachable } from "./api.js"
import { retry, Semaphore } from "./retries.js"
import { sayStoreRefusal } from "./words.js"

const STALLED_MILLISECONDS = 90_000
/** Browsers open six connections to a host. Further requests would wait inside the browser. */
const PUTS_AT_ONCE = 6
export const MOST_FRESH_URLS = 4
const places = new Semaphore(PUTS_AT_ONCE)

/** @typedef {{method: string, url: string, headers: Record<string, string>}} Signed */
/** @typedef {{status: number, code: string}} Answer `code` is the store's error code, or "" */
/** @typedef {(sentBytes: number) => void} Progress */

/**
 * @callback Deliver
 * @param {Signed} signed
 * @param {Blob} body
 * @param {{signal: AbortSignal, progress: Progress, say: import("./retries.js").Say}} options
 * @returns {Promise<Answer>}
 */

/**
 * Repeat a PUT until the store gives a final response, and return that response. Throw a
 * DOMException if the file can no longer be read.
 * @type {Deliver}
 */
export function deliver(signed, body, { signal, progress, say }) {
  const attempt = () => places.hold(() => put(signed, body, { signal, progress }), signal)
  return retry(attempt, { signal, say })
}

/**
 * Send a whole file in one PUT. A 200 means that it is stored, and so does a 412. (The URL allows
 * no second object under its key.) A 403 means that the URL has expired, and is followed by a PUT
 * to a fresh URL.
 * @param {import("./upload.js").Upload} upload
 * @param {Signed} first
 * @param {AbortSignal} signal
 */
export async function sendWhole(upload, first, signal) {
  upload.sent = 0
  const progress = (/** @type {number} */ sent) => upload.progress(sent)
  /** @type {Signed | null} */
  let signed = first
  for (let urls = 1; signed; urls++) {
    const options = { signal, progress, say: upload.say }
    const { status, code } = await upload.deliver(signed, upload.file, options)
    if (status < 300 || status === 412) return
    if (status !== 403 || urls === MOST_FRESH_URLS) throw new Error(sayStoreRefusal(status, code))
    signed = /** @type {Signed | null} */ (await upload.renew(signal))
  }
}

/**
 * Return the store's response to one PUT. Throw Unreachable if there is no response, the connection
 * stalls, or a repetition may get another response.
 * @param {Signed} signed
 * @param {Blob} body
 * @param {{signal: AbortSignal, progress: Progress}} options
 * @returns {Promise<Answer>}
 */
function put(signed, body, { signal, progress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()
    const abort = () => request.abort()
    let timer = setTimeout(abort, STALLED_MILLISECONDS)
    const stopWatching = () => {
      clearTimeout(timer)
      signal.removeEventListener("abort", abort)
    }
    request.open(signed.method, signed.url)
    for (const [name, value] of Object.entries(signed.headers)) {
      request.setRequestHeader(name, value)
    }
    request.upload.onprogress = ({ loaded }) => {
      clearTimeout(timer)
      timer = setTimeout(abort, STALLED_MILLISECONDS)
      progress(loaded)
    }
    request.onload = () => {
      stopWatching()
      try {
        resolve(readAnswer(request.status, request.responseText))
      } catch (error) {
        reject(error)
      }
    }
    request.onerror = () => {
      stopWatching()
      checkReadable(body).then(() => reject(new Unreachable("the store")), reject)
    }
    request.onabort = () => {
      stopWatching()
      reject(signal.aborted ? signal.reason : new Unreachable("the store"))
    }
    signal.addEventListener("abort", abort)
    if (signal.aborted) {
      stopWatching()
      reject(signal.reason)
      return
    }
    request.send(body)
  })
}

/**
 * Return the store's response, with the error code of its XML. Throw Busy if a repetition may get
 * another response.
 * @param {number} status
 * @param {string} text the body
 * @returns {Answer}
 */
export function readAnswer(status, text) {
  if (status >= 500 || isTransientStatus(status)) throw new Busy(status)
  return { status, code: /<Code>(\w+)<\/Code>/.exec(text)?.[1] ?? "" }
}

/**
 * Throw a DOMException if the file was changed or removed on this device. Such a file ends a
 * request in the same way as a network failure does.
 * @param {Blob} body
 */
async function checkReadable(body) {
  await body.slice(0, 1).arrayBuffer()
}

/** A response by which the store says that it cannot serve the request now. */
export class Busy extends Unreachable {
  /** @param {number} status */
  constructor(status) {
    super("the store")
    this.message = `the store is busy or unavailable (${status})`
  }
}
