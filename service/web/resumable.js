/**
 * The uploads that were begun in this browser. An entry is found by the path, the size and the
 * modification time of a file, so that an upload continues when the user chooses the same file
 * again after a reload.
 *
 * An entry holds the file's id at the server, and the digest of some bytes that were sent. The
 * digest shows whether the file has changed since. Without IndexedDB (in some private windows), the
 * entries last until the page is closed.
 */

import { CAN_DIGEST, digestPiece } from "./digests.js"

/** @typedef {{start: number, end: number, sha256: string}} Sample a digest of a file's bytes */

/**
 * @typedef {object} Entry
 * @property {string} identity
 * @property {string} path
 * @property {number} size
 * @property {string} id
 * @property {number} at when the entry was written, as milliseconds since 1970
 * @property {Sample | null} sample
 */

const DATABASE = "assay"
const TABLE = "uploads"
const KEPT_MILLISECONDS = 8 * 24 * 3600 * 1000
const entries = /** @type {Map<string, Entry>} */ (new Map())
const opened = open()

/**
 * @param {File} file
 * @param {string} path
 */
export function identify(file, path) {
  return JSON.stringify([path, file.size, file.lastModified])
}

/**
 * Return false if the bytes of the sample have changed. Without a sample or WebCrypto, return true.
 * @param {File} file
 * @param {Sample | null} sample
 */
export async function matchesSample(file, sample) {
  if (!sample || !CAN_DIGEST) return true
  return (await digestPiece(file.slice(sample.start, sample.end))) === sample.sha256
}

/**
 * Return all entries, the newest first.
 * @returns {Promise<Entry[]>}
 */
export async function recallAll() {
  await opened
  return [...entries.values()].sort((one, other) => other.at - one.at)
}

/**
 * @param {string} identity
 * @returns {Promise<Entry | undefined>}
 */
export async function recall(identity) {
  await opened
  return entries.get(identity)
}

/**
 * Return an entry for another version of the file at this path.
 * @param {string} path
 * @param {string} identity
 * @returns {Promise<Entry | undefined>}
 */
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

/**
 * Open the database and read it. Return null if the browser has no usable database.
 * @returns {Promise<IDBDatabase | null>}
 */
async function open() {
  try {
    const database = await new Promise((resolve, reject) => {
      const request = indexedDB.open(DATABASE, 1)
      request.onupgradeneeded = () =>
        request.result.createObjectStore(TABLE, { keyPath: "identity" })
      request.onsuccess = () => resolve(request.result)
      request.onerror = () => reject(request.error)
    })
    await read(database)
    return database
  } catch {
    return null
  }
}

/**
 * Read all entries, and delete those whose files have expired at the server.
 * @param {IDBDatabase} database
 */
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
    // The disk is full. The entry lasts until the page is closed.
  }
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function finish(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })
}
