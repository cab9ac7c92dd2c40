import assert from "node:assert/strict"
import { describe, test } from "node:test"

import {
  describeCounts,
  describeHidden,
  describeProgress,
  findUsableButtons,
  Rate,
} from "../../service/web/summary.js"

const MEBIBYTE = 1024 ** 2

/**
 * @param {Record<string, number>} states
 * @param {{bytes?: number, sent?: number}} sizes
 */
function sum(states, { bytes = 0, sent = 0 } = {}) {
  const count = Object.values(states).reduce((total, number) => total + number, 0)
  return { count, bytes, sent, states }
}

describe("the buttons for all uploads", () => {
  /** @param {Record<string, number>} states */
  function list(states) {
    return Object.entries(findUsableButtons(states)).flatMap(([id, isUsable]) =>
      isUsable ? [id] : [],
    )
  }

  for (const state of ["waiting", "starting", "sending"]) {
    test(`pause and cancel an upload that is ${state}`, () => {
      assert.deepEqual(list({ [state]: 1 }), ["pause-all", "cancel-all"])
    })
  }

  test("have an effect only on the states that they are for", () => {
    assert.deepEqual(list({}), [])
    assert.deepEqual(list({ paused: 1 }), ["resume-all", "cancel-all"])
    assert.deepEqual(list({ failed: 1 }), ["retry-all"])
    assert.deepEqual(list({ ready: 1 }), ["clear-all"])
    assert.deepEqual(list({ proving: 1, rejected: 1 }), [])
  })
})

test("the counts name the states that have uploads", () => {
  assert.equal(describeCounts(sum({ waiting: 1 })), "1 file")
  const text = describeCounts(sum({ waiting: 3, ready: 1996, failed: 1 }))
  assert.match(text, /^2,000 files · 1,996 \w+ · 1 \w+$/)
})

test("the hidden uploads are counted, if there are any", () => {
  assert.equal(describeHidden(0), "")
  assert.match(describeHidden(1), /^1 more file is /)
  assert.match(describeHidden(1200), /^1,200 more files are /)
})

describe("the progress", () => {
  const sizes = { bytes: 100 * MEBIBYTE, sent: 40 * MEBIBYTE }

  test("has the rate and the remaining time while bytes are sent", () => {
    const text = describeProgress(sum({ sending: 1 }, sizes), 2 * MEBIBYTE)
    assert.equal(text, "40.0 MiB of 100 MiB · 2.0 MiB/s · about 30 s left")
  })

  test("has only the sizes while nothing is sent or the rate is not known", () => {
    assert.equal(describeProgress(sum({ paused: 1 }, sizes), 5), "40.0 MiB of 100 MiB")
    assert.equal(describeProgress(sum({ sending: 1 }, sizes), 0), "40.0 MiB of 100 MiB")
    assert.equal(describeProgress(sum({ sending: 1 }), 0), "0 B of 0 B")
  })
})

describe("the rate", () => {
  test("is not known before half a second", () => {
    const rate = new Rate()
    assert.equal(rate.add(0, 1000), 0)
    assert.equal(rate.add(5000, 1499), 0)
    assert.equal(rate.add(5000, 1500), 10_000)
  })

  test("is that of the last eight seconds", () => {
    const rate = new Rate()
    let bytes = 0
    let last = 0
    for (let second = 0; second <= 60; second++) {
      bytes += second < 30 ? 1000 : 50
      last = rate.add(bytes, second * 1000)
    }
    assert.equal(last, 50)
    assert.ok(rate.samples.length <= 10)
  })

  test("falls to zero while nothing is sent", () => {
    const rate = new Rate()
    const rates = Array.from({ length: 12 }, (_, second) =>
      rate.add(second < 2 ? second * 1000 : 1000, second * 1000),
    )
    assert.equal(rates[1], 1000)
    assert.equal(rates.at(-1), 0)
    for (let second = 2; second < 12; second++) assert.ok(rates[second] <= rates[second - 1])
  })

  test("is never negative when an upload starts again or is removed", () => {
    const rate = new Rate()
    rate.add(0, 0)
    rate.add(9000, 1000)
    assert.equal(rate.add(1000, 2000), 0)
    assert.equal(rate.add(2000, 3000), 1000)
  })
})
