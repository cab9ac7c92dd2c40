/** One PUT to the store, by XMLHttpRequest: `fetch` cannot say how far it is. No key of ours goes there. */

import { Unreachable } from "./api.js"
import { Semaphore } from "./retries.js"

const STALLED_MILLISECONDS = 90_000
/** Browsers open six connections a host; more would wait in them instead of here. */
const PUTS_AT_ONCE = 6
const places = new Semaphore(PUTS_AT_ONCE)

/** @typedef {{method: string, url: string, headers: Record<string, string>}} Signed */
/** @typedef {{status: number, code: string}} Answer `code` is the store's own word for an error */

/**
 * Throws Unreachable for no answer, a stalled connection, and answers that may be others next time; DOMException for a file that cannot
 * be read any more.
 * @param {Signed} signed @param {Blob} body @param {{signal: AbortSignal, progress: (sent: number) => void}} options
 * @returns {Promise<Answer>}
 */
export function put(signed, body, { signal, progress }) {
  return places.hold(() => send(signed, body, { signal, progress }), signal)
}

/** @type {(signed: Signed, body: Blob, options: {signal: AbortSignal, progress: (sent: number) => void}) => Promise<Answer>} */
function send(signed, body, { signal, progress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()
    const stop = () => request.abort()
    let watch = setTimeout(stop, STALLED_MILLISECONDS)
    const end = () => {
      clearTimeout(watch)
      signal.removeEventListener("abort", stop)
    }
    request.open(signed.method, signed.url)
    for (const [name, value] of Object.entries(signed.headers)) request.setRequestHeader(name, value)
    request.upload.onprogress = ({ loaded }) => {
      clearTimeout(watch)
      watch = setTimeout(stop, STALLED_MILLISECONDS)
      progress(loaded)
    }
    request.onload = () => {
      end()
      if (request.status >= 500 || request.status === 429 || request.status === 408) reject(new Busy(request.status))
      else resolve({ status: request.status, code: /<Code>(\w+)<\/Code>/.exec(request.responseText)?.[1] ?? "" })
    }
    request.onerror = () => {
      end()
      checkReadable(body).then(() => reject(new Unreachable("the store")), reject)
    }
    request.onabort = () => (end(), reject(signal.aborted ? signal.reason : new Unreachable("the store")))
    signal.addEventListener("abort", stop)
    if (signal.aborted) {
      end()
      return reject(signal.reason)
    }
    request.send(body)
  })
}

/** A file that was changed or removed on this device ends a request like a lost network does. @param {Blob} body */
async function checkReadable(body) {
  await body.slice(0, 1).arrayBuffer()
}

/** The store answered that it cannot now. */
export class Busy extends Unreachable {
  /** @param {number} status */
  constructor(status) {
    super("the store")
    this.message = `the store is busy or away (${status})`
  }
}
