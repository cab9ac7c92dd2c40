/** A clock that does not wait. */

/**
 * An environment of the retry policy whose pauses end at once. `pauses` has their milliseconds.
 */
export class Clock {
  /** @param {{random?: number, offline?: boolean}} options */
  constructor({ random = 0, offline = false } = {}) {
    this.pauses = /** @type {number[]} */ ([])
    this.offline = offline
    this.random = () => random
  }

  isOffline = () => this.offline

  /**
   * @param {number} milliseconds
   * @param {AbortSignal} signal
   */
  pause = async (milliseconds, signal) => {
    signal.throwIfAborted()
    this.pauses.push(milliseconds)
    await nextTurn()
    signal.throwIfAborted()
  }
}

/**
 * Wait until Node has processed the events that are due.
 * @returns {Promise<void>}
 */
export function nextTurn() {
  return new Promise((resolve) => setImmediate(resolve))
}

/**
 * Wait until a condition holds. Throw an error if it does not hold within a minute.
 * @param {() => unknown} condition
 */
export async function until(condition) {
  const end = performance.now() + 60_000
  while (!condition()) {
    if (performance.now() > end) throw new Error(`the condition does not hold: ${condition}`)
    await nextTurn()
  }
}
