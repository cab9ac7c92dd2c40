/** The storages of a browser, which Node does not have. */

/** A storage for strings, as `localStorage` and `sessionStorage` are. */
class MemoryStorage {
  values = /** @type {Map<string, string>} */ (new Map())

  /** @param {string} name */
  getItem(name) {
    return this.values.get(name) ?? null
  }

  /**
   * @param {string} name
   * @param {string} value
   */
  setItem(name, value) {
    this.values.set(name, String(value))
  }

  /** @param {string} name */
  removeItem(name) {
    this.values.delete(name)
  }
}

/** Give the page empty storages, and return what they hold. */
export function installStorages() {
  const storages = { sessionStorage: new MemoryStorage(), localStorage: new MemoryStorage() }
  for (const [name, value] of Object.entries(storages)) define(name, () => value)
  return storages
}

/** Make every use of a storage fail, as browsers do if the user blocks site data. */
export function blockStorages() {
  for (const name of ["sessionStorage", "localStorage"]) {
    define(name, () => {
      throw new DOMException("Access is denied for this document.", "SecurityError")
    })
  }
}

/** Give the page an empty IndexedDB, and return the rows of its only table. */
export function installDatabase() {
  const rows = /** @type {Map<string, any>} */ (new Map())
  const table = {
    getAll: () => succeed(() => [...rows.values()].map((row) => structuredClone(row))),
    put: (/** @type {any} */ row) => succeed(() => rows.set(row.identity, structuredClone(row))),
    delete: (/** @type {string} */ identity) => succeed(() => rows.delete(identity)),
  }
  const database = {
    createObjectStore: () => table,
    transaction: () => ({ objectStore: () => table }),
  }
  define("indexedDB", () => ({ open: () => succeed(() => database) }))
  return rows
}

/** Make every use of IndexedDB fail, as some browsers do in private windows. */
export function blockDatabase() {
  define("indexedDB", () => ({
    open: () => {
      throw new DOMException("A mutation operation was attempted.", "InvalidStateError")
    },
  }))
}

/**
 * Return a request whose result comes later.
 * @param {() => unknown} work
 */
function succeed(work) {
  const request = { result: /** @type {unknown} */ (undefined), onsuccess: () => {} }
  setImmediate(() => {
    request.result = work()
    request.onsuccess()
  })
  return request
}

/**
 * @param {string} name
 * @param {() => unknown} get
 */
function define(name, get) {
  Object.defineProperty(globalThis, name, { get, configurable: true })
}
