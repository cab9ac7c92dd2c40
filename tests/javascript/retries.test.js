import assert from "node:assert/strict"
import { getEventListeners } from "node:events"
import { describe, mock, test } from "node:test"

import { Unreachable } from "../../service/web/api.js"
import {
  chooseDelay,
  LONGEST_MILLISECONDS,
  pause,
  retry,
  Semaphore,
} from "../../service/web/retries.js"
import { Clock, nextTurn } from "./support/clocks.js"

const NEVER = new AbortController().signal

describe("the delay", () => {
  test("doubles from half a second to half a minute, less up to a half", () => {
    const tries = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    const shortest = tries.map((number) => chooseDelay(number, 0, () => 0))
    const longest = tries.map((number) => chooseDelay(number, 0, () => 1))
    assert.deepEqual(shortest, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000])
    assert.deepEqual(
      longest,
      shortest.map((milliseconds) => milliseconds * 2),
    )
  })

  test("stays at half a minute after days of tries", () => {
    assert.equal(
      chooseDelay(100_000, 0, () => 1),
      LONGEST_MILLISECONDS,
    )
  })

  test("is never shorter than `Retry-After`", () => {
    assert.equal(
      chooseDelay(1, 5, () => 0),
      5000,
    )
    assert.equal(
      chooseDelay(1, 5, () => 1),
      5250,
    )
    assert.equal(
      chooseDelay(7, 5, () => 0),
      15_000,
    )
  })

  test("follows `Retry-After` for at most a minute", () => {
    assert.equal(
      chooseDelay(1, 86_400, () => 0),
      60_000,
    )
  })
})

/**
 * Return an operation that fails with these errors, and then returns "done".
 * @param {Error[]} errors
 */
function failWith(errors) {
  return async () => {
    const error = errors.shift()
    if (error) throw error
    return "done"
  }
}

describe("retry", () => {
  test("returns the first result without a word", async () => {
    const say = mock.fn()
    const environment = new Clock()
    assert.equal(await retry(failWith([]), { signal: NEVER, say, environment }), "done")
    assert.equal(say.mock.callCount(), 0)
    assert.deepEqual(environment.pauses, [])
  })

  test("repeats a transient failure, and says when the wait is over", async () => {
    const say = mock.fn()
    const environment = new Clock()
    const [one, other] = [new Unreachable("the server"), new Unreachable("the server")]
    await retry(failWith([one, other]), { signal: NEVER, say, environment })
    assert.deepEqual(environment.pauses, [250, 500])
    assert.deepEqual(
      say.mock.calls.map((call) => call.arguments[0]),
      [{ offline: false, error: one, tries: 1 }, { offline: false, error: other, tries: 2 }, null],
    )
  })

  test("obeys the `retryAfter` of the error", async () => {
    const environment = new Clock()
    const error = Object.assign(new Unreachable("the server"), { retryAfter: 9 })
    await retry(failWith([error]), { signal: NEVER, environment })
    assert.deepEqual(environment.pauses, [9000])
  })

  test("throws any other error at once", async () => {
    const environment = new Clock()
    const error = new TypeError("a fault in the program")
    await assert.rejects(retry(failWith([error]), { signal: NEVER, environment }), error)
    assert.deepEqual(environment.pauses, [])
  })

  test("says that the wait is over when a later try fails for good", async () => {
    const say = mock.fn()
    const error = new Error("refused")
    const attempt = failWith([new Unreachable("the server"), error])
    await assert.rejects(retry(attempt, { signal: NEVER, say, environment: new Clock() }), error)
    assert.equal(say.mock.calls.at(-1)?.arguments[0], null)
  })

  test("waits longest while the browser is offline", async () => {
    const say = mock.fn()
    const environment = new Clock({ offline: true })
    const attempt = failWith([new Unreachable("the server")])
    await retry(attempt, { signal: NEVER, say, environment })
    assert.deepEqual(environment.pauses, [LONGEST_MILLISECONDS])
    assert.equal(say.mock.calls[0].arguments[0]?.offline, true)
  })

  test("ends with the reason of the signal during an attempt", async () => {
    const controller = new AbortController()
    const reason = new Error("paused by the user")
    const attempt = async () => {
      controller.abort(reason)
      throw new Unreachable("the server")
    }
    const { signal } = controller
    await assert.rejects(retry(attempt, { signal, environment: new Clock() }), reason)
  })

  test("ends with the reason of the signal during a delay", async () => {
    const controller = new AbortController()
    const reason = new Error("paused by the user")
    const network = new EventTarget()
    const environment = Object.assign(new Clock(), {
      pause: (/** @type {number} */ milliseconds, /** @type {AbortSignal} */ signal) =>
        pause(milliseconds, signal, network),
    })
    const attempt = mock.fn(failWith([new Unreachable("the server")]))
    const done = retry(attempt, { signal: controller.signal, environment })
    await nextTurn()
    controller.abort(reason)
    await assert.rejects(done, reason)
    assert.equal(attempt.mock.callCount(), 1)
  })
})

describe("pause", () => {
  /**
   * Assert that the pause has removed its listeners.
   * @param {EventTarget} network
   * @param {AbortSignal} signal
   */
  function assertNoListeners(network, signal) {
    assert.equal(getEventListeners(network, "online").length, 0)
    assert.equal(getEventListeners(signal, "abort").length, 0)
  }

  test("ends when the time is over", async (context) => {
    context.mock.timers.enable({ apis: ["setTimeout"] })
    const network = new EventTarget()
    const { signal } = new AbortController()
    const ended = mock.fn()
    const done = pause(1000, signal, network).then(ended)
    context.mock.timers.tick(999)
    await nextTurn()
    assert.equal(ended.mock.callCount(), 0)
    context.mock.timers.tick(1)
    await done
    assertNoListeners(network, signal)
  })

  test("ends when the network is back", async () => {
    const network = new EventTarget()
    const { signal } = new AbortController()
    const done = pause(3_600_000, signal, network)
    network.dispatchEvent(new Event("online"))
    await done
    assertNoListeners(network, signal)
  })

  test("ends with the reason of the signal", async () => {
    const network = new EventTarget()
    const controller = new AbortController()
    const reason = new Error("paused by the user")
    const done = pause(3_600_000, controller.signal, network)
    controller.abort(reason)
    await assert.rejects(done, reason)
    assertNoListeners(network, controller.signal)
  })

  test("does not begin if the signal is already aborted", async () => {
    const network = new EventTarget()
    const signal = AbortSignal.abort(new Error("paused by the user"))
    await assert.rejects(pause(3_600_000, signal, network), signal.reason)
    assertNoListeners(network, signal)
  })
})

/** Return operations that run until the test ends them by name. */
function makeOperations() {
  const started = /** @type {string[]} */ ([])
  const ends = /** @type {Map<string, (error?: Error) => void>} */ (new Map())
  const work = (/** @type {string} */ name) => () =>
    new Promise((resolve, reject) => {
      started.push(name)
      ends.set(name, (error) => (error ? reject(error) : resolve(name)))
    })
  /** @type {(name: string, error?: Error) => Promise<void>} */
  const end = async (name, error) => {
    ends.get(name)?.(error)
    await nextTurn()
  }
  return { started, work, end }
}

describe("the semaphore", () => {
  test("runs so many operations at once, in the order of requests", async () => {
    const { started, work, end } = makeOperations()
    const semaphore = new Semaphore(2)
    const results = Promise.all(
      ["a", "b", "c", "d"].map((name) => semaphore.hold(work(name), NEVER)),
    )
    await nextTurn()
    assert.deepEqual(started, ["a", "b"])
    await end("b")
    assert.deepEqual(started, ["a", "b", "c"])
    await end("a")
    assert.deepEqual(started, ["a", "b", "c", "d"])
    await end("c")
    await end("d")
    assert.deepEqual(await results, ["a", "b", "c", "d"])
    assert.equal(semaphore.free, 2)
  })

  test("passes the place of a failed operation on", async () => {
    const { started, work, end } = makeOperations()
    const semaphore = new Semaphore(1)
    const failed = assert.rejects(semaphore.hold(work("a"), NEVER), /no/)
    const next = semaphore.hold(work("b"), NEVER)
    await end("a", new Error("no"))
    await failed
    assert.deepEqual(started, ["a", "b"])
    await end("b")
    assert.equal(await next, "b")
    assert.equal(semaphore.free, 1)
  })

  test("skips an operation that is aborted while it waits", async () => {
    const { started, work, end } = makeOperations()
    const semaphore = new Semaphore(1)
    const controller = new AbortController()
    const reason = new Error("cancelled")
    const first = semaphore.hold(work("a"), NEVER)
    const aborted = assert.rejects(semaphore.hold(work("b"), controller.signal), reason)
    const last = semaphore.hold(work("c"), NEVER)
    await nextTurn()
    controller.abort(reason)
    await aborted
    await end("a")
    assert.deepEqual(started, ["a", "c"])
    await end("c")
    await Promise.all([first, last])
    assert.equal(semaphore.free, 1)
  })

  test("takes no place for a signal that is already aborted", async () => {
    const { started, work } = makeOperations()
    const semaphore = new Semaphore(1)
    const signal = AbortSignal.abort(new Error("cancelled"))
    await assert.rejects(semaphore.hold(work("a"), signal), signal.reason)
    assert.deepEqual(started, [])
    assert.equal(semaphore.free, 1)
  })

  test("keeps its places over many aborted and failed operations", async () => {
    const semaphore = new Semaphore(3)
    const controllers = Array.from({ length: 60 }, () => new AbortController())
    const operations = controllers.map(({ signal }, number) => {
      const work = async () => {
        await nextTurn()
        if (number % 5 === 0) throw new Error("failed")
      }
      return semaphore.hold(work, signal)
    })
    const settled = Promise.allSettled(operations)
    for (const [number, controller] of controllers.entries()) {
      if (number % 3 === 0) controller.abort()
      if (number % 7 === 0) await nextTurn()
    }
    await settled
    assert.equal(semaphore.free, 3)
    assert.equal(semaphore.waiting.size, 0)
  })
})
