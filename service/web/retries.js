/**
 * Repetition of failed operations, with delays that grow.
 *
 * The delay before a repetition doubles from half a second to half a minute. It is shortened at
 * random by up to a half, so that many clients do not return at the same time. A `Retry-After`
 * header is a lower limit for the delay, up to one minute.
 *
 * While the browser reports that it is offline, the operation is repeated as soon as the browser
 * reports that the network is back. It is also repeated twice a minute, because browsers are
 * sometimes wrong.
 */

/** @typedef {{offline: boolean, error: Error, tries: number}} Waiting why an operation waits */
/** @typedef {(waiting: Waiting | null) => void} Say receives null when the wait is over */

/**
 * What the retry policy needs from the browser. Tests replace it.
 * @typedef {object} Environment
 * @property {() => boolean} isOffline
 * @property {() => number} random a number from 0 up to, but not including, 1
 * @property {(milliseconds: number, signal: AbortSignal) => Promise<void>} pause
 */

export const FIRST_MILLISECONDS = 500
export const LONGEST_MILLISECONDS = 30_000
export const LONGEST_RETRY_AFTER_MILLISECONDS = 60_000

/** @type {Environment} */
export const BROWSER = { isOffline: () => navigator.onLine === false, random: Math.random, pause }

/**
 * Repeat `attempt` until it succeeds, and return its result. An error whose `isTransient` is not
 * true is thrown at once. If `signal` is aborted, its reason is thrown.
 * @template T
 * @param {() => Promise<T>} attempt
 * @param {{signal: AbortSignal, say?: Say, environment?: Environment}} options
 * @returns {Promise<T>}
 */
export async function retry(attempt, { signal, say = () => {}, environment = BROWSER }) {
  for (let tries = 1; ; tries++) {
    try {
      const result = await attempt()
      if (tries > 1) say(null)
      return result
    } catch (thrown) {
      signal.throwIfAborted()
      const error = /** @type {Error & {isTransient?: boolean, retryAfter?: number}} */ (thrown)
      if (!error.isTransient) {
        if (tries > 1) say(null)
        throw error
      }
      const offline = environment.isOffline()
      say({ offline, error, tries })
      const delay = chooseDelay(tries, error.retryAfter ?? 0, environment.random)
      await environment.pause(offline ? LONGEST_MILLISECONDS : delay, signal)
    }
  }
}

/**
 * Return the milliseconds to wait after a failed try.
 * @param {number} tries how many tries have failed, from 1
 * @param {number} retryAfter the seconds of the server's `Retry-After`, or 0
 * @param {() => number} random
 */
export function chooseDelay(tries, retryAfter, random) {
  const step = Math.min(LONGEST_MILLISECONDS, FIRST_MILLISECONDS * 2 ** (tries - 1))
  const asked = Math.min(LONGEST_RETRY_AFTER_MILLISECONDS, retryAfter * 1000)
  return Math.max(asked, step / 2) + random() * (step / 2)
}

/**
 * Wait until the time has passed or the network comes back, whichever happens first. If `signal` is
 * aborted, its reason is thrown.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @param {EventTarget} network the target of the browser's `online` event
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal, network = window) {
  return new Promise((resolve, reject) => {
    const stopListening = () => {
      clearTimeout(timer)
      network.removeEventListener("online", finish)
      signal.removeEventListener("abort", abort)
    }
    const finish = () => {
      stopListening()
      resolve()
    }
    const abort = () => {
      stopListening()
      reject(signal.reason)
    }
    const timer = setTimeout(finish, milliseconds)
    network.addEventListener("online", finish)
    signal.addEventListener("abort", abort)
    if (signal.aborted) abort()
  })
}

/** A limit on concurrent operations. Waiting operations start in the order of their requests. */
export class Semaphore {
  /** @param {number} count how many operations may run at once */
  constructor(count) {
    this.free = count
    this.waiting = /** @type {Set<() => void>} */ (new Set())
  }

  /**
   * Run `work` when there is a free place, and return its result. If `signal` is aborted before
   * that, its reason is thrown and `work` does not run.
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

  /**
   * Wait until an operation that ends passes its place on.
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
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
