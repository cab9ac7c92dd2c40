import assert from "node:assert/strict"
import { beforeEach, describe, mock, test } from "node:test"

import { Session } from "../../service/web/session.js"
import { blockStorages, installStorages } from "./support/storages.js"

const NEVER = new AbortController().signal

/** @type {ReturnType<typeof installStorages>} */
let storages

beforeEach(() => {
  storages = installStorages()
})

describe("the key", () => {
  test("lasts through a reload, but not in another tab", () => {
    new Session().open("assay_key", false)
    const reloaded = new Session()
    assert.equal(reloaded.key, "assay_key")
    assert.equal(reloaded.isOpen, true)
    assert.equal(reloaded.isRemembered, false)
    storages.sessionStorage.values.clear()
    assert.equal(new Session().isOpen, false)
  })

  test("lasts on this device if the user chooses so", () => {
    new Session().open("assay_key", true)
    storages.sessionStorage.values.clear()
    const later = new Session()
    assert.equal(later.key, "assay_key")
    assert.equal(later.isRemembered, true)
  })

  test("is no longer on the device after a choice to the contrary", () => {
    const session = new Session()
    session.open("assay_key", true)
    session.open("assay_other", false)
    assert.equal(storages.localStorage.values.size, 0)
    assert.equal(new Session().key, "assay_other")
  })

  test("is forgotten when the user signs out", () => {
    const session = new Session()
    const out = mock.fn()
    session.addEventListener("out", out)
    session.open("assay_key", true)
    session.close()
    assert.equal(out.mock.callCount(), 1)
    assert.equal(session.isOpen, false)
    assert.equal(new Session().key, "")
  })

  test("is forgotten when the API no longer accepts it", () => {
    const session = new Session()
    const lost = mock.fn()
    session.addEventListener("lost", lost)
    session.open("assay_key", true)
    session.lose("assay_key")
    session.lose("assay_key")
    assert.equal(lost.mock.callCount(), 1)
    assert.equal(session.isOpen, false)
    assert.equal(session.isRemembered, true)
    assert.equal(new Session().key, "")
  })

  test("stays if the API refuses an earlier one", () => {
    const session = new Session()
    session.open("assay_key", false)
    session.open("assay_other", false)
    session.lose("assay_key")
    assert.equal(session.isOpen, true)
    assert.equal(new Session().key, "assay_other")
  })

  test("works until the page is closed if the browser blocks storages", () => {
    blockStorages()
    const session = new Session()
    session.open("assay_key", true)
    assert.equal(session.isOpen, true)
    assert.equal(new Session().isOpen, false)
    session.close()
    assert.equal(session.isOpen, false)
  })
})

describe("the wait for a key", () => {
  test("is over at once if the user is signed in", async () => {
    const session = new Session()
    session.open("assay_key", false)
    await session.whenSignedIn(NEVER)
  })

  test("is over when the user signs in", async () => {
    const session = new Session()
    const waits = [session.whenSignedIn(NEVER), session.whenSignedIn(NEVER)]
    session.open("assay_key", false)
    await Promise.all(waits)
  })

  test("ends with the reason of the signal", async () => {
    const session = new Session()
    const controller = new AbortController()
    const reason = new Error("cancelled")
    const wait = session.whenSignedIn(controller.signal)
    controller.abort(reason)
    session.open("assay_key", false)
    await assert.rejects(wait, reason)
  })

  test("does not begin if the signal is already aborted", { timeout: 10_000 }, async () => {
    const signal = AbortSignal.abort(new Error("cancelled"))
    await assert.rejects(new Session().whenSignedIn(signal), signal.reason)
  })
})
