/** Files that the user has chosen or dropped, each with its path in the chosen folder. */

/** @typedef {import("./uploads.js").Chosen} Chosen */

/** How many files are found before they are passed on. */
const BATCH = 200

/**
 * @param {FileList} files of an input. With the attribute `webkitdirectory`, each has its path.
 * @returns {Chosen[]}
 */
export function listChosen(files) {
  return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }))
}

/**
 * Pass the dropped files on in batches, and return the paths that could not be read. The items of
 * the transfer are read before the first `await`, because the browser then empties it.
 * @param {DataTransfer} transfer
 * @param {(chosen: Chosen[]) => void} give receives each batch
 * @returns {Promise<string[]>}
 */
export async function readDropped(transfer, give) {
  const items = [...transfer.items].filter((item) => item.kind === "file")
  const dropped = items.map((item) => ({
    entry: item.webkitGetAsEntry?.() ?? null,
    file: item.getAsFile(),
  }))
  const walk = new Walk(give)
  for (const { entry, file } of dropped) {
    if (entry) await walk.visit(entry)
    else if (file) walk.take({ file, path: file.name })
  }
  walk.flush()
  return walk.unreadable
}

/** A walk through the dropped folders. */
class Walk {
  /** @param {(chosen: Chosen[]) => void} give */
  constructor(give) {
    this.give = give
    this.found = /** @type {Chosen[]} */ ([])
    this.unreadable = /** @type {string[]} */ ([])
  }

  /** @param {FileSystemEntry} entry */
  async visit(entry) {
    const path = entry.fullPath.replace(/^\//, "")
    try {
      if (entry.isDirectory) {
        const folder = /** @type {FileSystemDirectoryEntry} */ (entry)
        for (const inner of await listFolder(folder)) await this.visit(inner)
      } else {
        const file = await readFile(/** @type {FileSystemFileEntry} */ (entry))
        this.take({ file, path })
      }
    } catch {
      this.unreadable.push(path)
    }
  }

  /** @param {Chosen} chosen */
  take(chosen) {
    this.found.push(chosen)
    if (this.found.length >= BATCH) this.flush()
  }

  flush() {
    if (this.found.length > 0) this.give(this.found)
    this.found = []
  }
}

/**
 * @param {FileSystemFileEntry} entry
 * @returns {Promise<File>}
 */
function readFile(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject))
}

/**
 * Return all entries of a folder.
 * @param {FileSystemDirectoryEntry} folder
 */
async function listFolder(folder) {
  const reader = folder.createReader()
  const entries = /** @type {FileSystemEntry[]} */ ([])
  // Browsers return the entries in several pieces. An empty one is the end.
  for (;;) {
    const piece = await readPiece(reader)
    if (piece.length === 0) return entries
    entries.push(...piece)
  }
}

/**
 * @param {FileSystemDirectoryReader} reader
 * @returns {Promise<FileSystemEntry[]>}
 */
function readPiece(reader) {
  return new Promise((resolve, reject) => reader.readEntries(resolve, reject))
}
