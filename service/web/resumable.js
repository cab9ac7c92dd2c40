/**
 * What was begun in this browser, so that it goes on after a reload when the same file is chosen again: by path, size and time of change.
 *
 * An entry says which file it is at the server, and has the digest of some bytes that were sent, to notice a file that is another one now.
 * Where IndexedDB is missing (some private windows), it is remembered until the page is left.
 */

/** @typedef {{start: number, end: number, sha256: string}} Sample bytes of the file, and their digest */
/** @typedef {{identity: string, path: string, size: number, id: string, at: number, sample: Sample | null}} Entry */

const DATABASE = "assay"
const TABLE = "uploads"
const KEPT_MILLISECONDS = 8 * 24 * 3600 * 1000
const entries = /** @type {Map<string, Entry>} */ (new Map())
const opened = open()

/** @param {File} file @param {string} path */
export function identify(file, path) {
  return JSON.stringify([path, file.size, file.lastModified])
}

/** @returns {Promise<Entry[]>} the newest first */
export async function recallAll() {
  await opened
  return [...entries.values()].sort((one, other) => other.at - one.at)
}

/** @param {string} identity @returns {Promise<Entry | undefined>} */
export async function recall(identity) {
  await opened
  return entries.get(identity)
}

/** An entry for another version of the file at this path. @param {string} path @param {string} identity */
export async function recallOther(path, identity) {
  await opened
  return [...entries.values()].find((entry) => entry.path === path && entry.identity !== identity)
}

/** @param {Entry} entry */
export async function remember(entry) {
  entries.set(entry.identity, entry)
  await change((table) => table.put(entry))
}

/** @param {string} identity */
export async function forget(identity) {
  entries.delete(identity)
  await change((table) => table.delete(identity))
}

/** @returns {Promise<IDBDatabase | null>} */
async function open() {
  try {
    const database = await new Promise((resolve, reject) => {
      const request = indexedDB.open(DATABASE, 1)
      request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "identity" })
      request.onsuccess = () => resolve(request.result)
      request.onerror = () => reject(request.error)
    })
    await read(database)
    return database
  } catch {
    return null
  }
}

/** Everything, once; what is too old to go on is dropped. @param {IDBDatabase} database */
async function read(database) {
  const table = database.transaction(TABLE, "readwrite").objectStore(TABLE)
  const found = /** @type {Entry[]} */ (await finish(table.getAll()))
  for (const entry of found) {
    if (Date.now() - entry.at > KEPT_MILLISECONDS) table.delete(entry.identity)
    else entries.set(entry.identity, entry)
  }
}

/** @param {(table: IDBObjectStore) => IDBRequest} work */
async function change(work) {
  const database = await opened
  if (!database) return
  try {
    await finish(work(database.transaction(TABLE, "readwrite").objectStore(TABLE)))
  } catch {
    // A full disk: the entry lasts until the page is left.
  }
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function finish(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })
}
