/**
 * Waiting: for the next try, for the network, for somebody.
 *
 * Steps double from half a second to half a minute, each shortened by chance so that many clients do not come back at once. A server that
 * says when to come back is believed. A browser that knows that it is offline waits until it is told otherwise, and looks by itself twice
 * a minute, because browsers are sometimes wrong.
 */

/** @typedef {(waiting: {offline: boolean, error: Error, tries: number} | null) => void} Say what is waited for; null: the wait is over */

const FIRST_MILLISECONDS = 500
const LONGEST_MILLISECONDS = 30_000

/**
 * Try until it works, or fails for good.
 * @template T
 * @param {() => Promise<T>} attempt
 * @param {{signal: AbortSignal, say?: Say}} options
 * @returns {Promise<T>}
 */
export async function retry(attempt, { signal, say = () => {} }) {
  for (let tries = 1; ; tries++) {
    try {
      const found = await attempt()
      if (tries > 1) say(null)
      return found
    } catch (error) {
      signal.throwIfAborted()
      const passing = /** @type {Error & {isPassing?: boolean, retryAfter?: number}} */ (error)
      if (!passing.isPassing) throw error
      const offline = navigator.onLine === false
      say({ offline, error: passing, tries })
      await pause(offline ? LONGEST_MILLISECONDS : chooseDelay(tries, passing.retryAfter ?? 0), signal)
    }
  }
}

/** @param {number} tries so far @param {number} retryAfter seconds that the server asked for */
function chooseDelay(tries, retryAfter) {
  const step = Math.min(LONGEST_MILLISECONDS, FIRST_MILLISECONDS * 2 ** (tries - 1))
  return Math.max(Math.min(retryAfter * 1000, 2 * LONGEST_MILLISECONDS), step / 2) + Math.random() * (step / 2)
}

/**
 * Until the time is over or the network comes back, whichever is first.
 * @param {number} milliseconds @param {AbortSignal} signal @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer)
      window.removeEventListener("online", finish)
      signal.removeEventListener("abort", stop)
    }
    const finish = () => (end(), resolve())
    const stop = () => (end(), reject(signal.reason))
    const timer = setTimeout(finish, milliseconds)
    window.addEventListener("online", finish)
    signal.addEventListener("abort", stop)
    if (signal.aborted) stop()
  })
}

/** At most so many at once; the others wait in the order in which they came. */
export class Semaphore {
  /** @param {number} count */
  constructor(count) {
    this.free = count
    this.waiting = /** @type {Set<() => void>} */ (new Set())
  }

  /**
   * @template T
   * @param {() => Promise<T>} work
   * @param {AbortSignal} signal
   * @returns {Promise<T>}
   */
  async hold(work, signal) {
    signal.throwIfAborted()
    if (this.free > 0) this.free--
    else await this.wait(signal)
    try {
      return await work()
    } finally {
      const [next] = this.waiting
      if (next) next()
      else this.free++
    }
  }

  /** For a place that somebody hands on. @param {AbortSignal} signal @returns {Promise<void>} */
  wait(signal) {
    return new Promise((resolve, reject) => {
      const take = () => {
        this.waiting.delete(take)
        signal.removeEventListener("abort", leave)
        resolve()
      }
      const leave = () => {
        this.waiting.delete(take)
        reject(signal.reason)
      }
      this.waiting.add(take)
      signal.addEventListener("abort", leave, { once: true })
    })
  }
}
