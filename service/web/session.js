/**
 * Who is signed in: the API key, kept for this tab, or on this device by choice. It is in no URL.
 *
 * Events: `in`, `out` (somebody signed out), `lost` (the key has ended: what is under way waits for another one).
 */

const NAME = "assay-key"

export class Session extends EventTarget {
  constructor() {
    super()
    this.key = read(() => sessionStorage) ?? read(() => localStorage) ?? ""
    this.isRemembered = read(() => localStorage) !== null
    this.isLost = false
  }

  get isOpen() {
    return this.key !== "" && !this.isLost
  }

  /** @param {string} key @param {boolean} remember on this device */
  open(key, remember) {
    this.key = key
    this.isLost = false
    this.isRemembered = remember
    forget()
    keep(() => (remember ? localStorage : sessionStorage), key)
    this.dispatchEvent(new Event("in"))
  }

  close() {
    this.key = ""
    this.isRemembered = false
    forget()
    this.dispatchEvent(new Event("out"))
  }

  /** The API no longer takes the key that a request was made with. @param {string} key */
  lose(key) {
    if (key !== this.key || !this.isOpen) return
    this.isLost = true
    forget()
    this.dispatchEvent(new Event("lost"))
  }

  /** @param {AbortSignal} signal @returns {Promise<void>} */
  whenSignedIn(signal) {
    if (this.isOpen) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.addEventListener("in", () => resolve(), { once: true, signal })
      signal.addEventListener("abort", () => reject(signal.reason), { once: true })
    })
  }
}

/** @param {() => Storage} place which a browser may refuse @returns {string | null} */
function read(place) {
  try {
    return place().getItem(NAME)
  } catch {
    return null
  }
}

/** @param {() => Storage} place @param {string} key */
function keep(place, key) {
  try {
    place().setItem(NAME, key)
  } catch {
    // Then it is kept until the page is left.
  }
}

function forget() {
  for (const place of [() => sessionStorage, () => localStorage]) {
    try {
      place().removeItem(NAME)
    } catch {
      // Nothing was kept there.
    }
  }
}
