/**
 * The API key of the user. It is kept for this tab, or on this device if the user chooses so. It is
 * never part of the URL of a request.
 *
 * Events: `in` (signed in), `out` (signed out), `lost` (the API no longer accepts the key; requests
 * in progress wait for another one).
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

  /**
   * @param {string} key
   * @param {boolean} remember keep the key on this device
   */
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

  /**
   * Record that the API no longer accepts a key. Ignore a key that is no longer the current one.
   * @param {string} key the key of the refused request
   */
  lose(key) {
    if (key !== this.key || !this.isOpen) return
    this.isLost = true
    forget()
    this.dispatchEvent(new Event("lost"))
  }

  /**
   * Wait until the user is signed in. If `signal` is aborted before that, its reason is thrown.
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
  whenSignedIn(signal) {
    if (signal.aborted) return Promise.reject(signal.reason)
    if (this.isOpen) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.addEventListener("in", () => resolve(), { once: true, signal })
      signal.addEventListener("abort", () => reject(signal.reason), { once: true })
    })
  }
}

/**
 * Return the stored key, or null if there is none or the browser refuses the storage.
 * @param {() => Storage} place
 * @returns {string | null}
 */
function read(place) {
  try {
    return place().getItem(NAME)
  } catch {
    return null
  }
}

/**
 * @param {() => Storage} place
 * @param {string} key
 */
function keep(place, key) {
  try {
    place().setItem(NAME, key)
  } catch {
    // The browser refuses the storage. The key is kept until the page is closed.
  }
}

function forget() {
  for (const place of [() => sessionStorage, () => localStorage]) {
    try {
      place().removeItem(NAME)
    } catch {
      // The browser refuses the storage, so that it holds no key.
    }
  }
}
