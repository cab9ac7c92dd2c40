/** Files and folders that were dropped or chosen, each with its path below what was chosen. */

/** @typedef {import("./uploads.js").Chosen} Chosen */

const BATCH = 200

/** @param {FileList} files of an input; with `webkitdirectory` each has its path @returns {Chosen[]} */
export function listChosen(files) {
  return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }))
}

/**
 * In batches, as they are found. The transfer itself is read before anything is waited for: afterwards it is empty.
 * @param {DataTransfer} transfer @param {(chosen: Chosen[]) => void} give @returns {Promise<string[]>} what could not be read
 */
export async function readDropped(transfer, give) {
  const items = [...transfer.items].filter((item) => item.kind === "file")
  const entries = items.map((item) => ({ entry: item.webkitGetAsEntry?.() ?? null, file: item.getAsFile() }))
  const walk = new Walk(give)
  for (const { entry, file } of entries) {
    if (entry) await walk.visit(entry)
    else if (file) walk.take({ file, path: file.name })
  }
  walk.flush()
  return walk.unreadable
}

class Walk {
  /** @param {(chosen: Chosen[]) => void} give */
  constructor(give) {
    this.give = give
    this.found = /** @type {Chosen[]} */ ([])
    this.unreadable = /** @type {string[]} */ ([])
  }

  /** @param {FileSystemEntry} entry */
  async visit(entry) {
    try {
      if (entry.isDirectory) for (const inner of await listFolder(/** @type {FileSystemDirectoryEntry} */ (entry))) await this.visit(inner)
      else this.take({ file: await readFile(/** @type {FileSystemFileEntry} */ (entry)), path: entry.fullPath.replace(/^\//, "") })
    } catch {
      this.unreadable.push(entry.fullPath.replace(/^\//, ""))
    }
  }

  /** @param {Chosen} chosen */
  take(chosen) {
    this.found.push(chosen)
    if (this.found.length >= BATCH) this.flush()
  }

  flush() {
    if (this.found.length) this.give(this.found)
    this.found = []
  }
}

/** @param {FileSystemFileEntry} entry @returns {Promise<File>} */
function readFile(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject))
}

/** Browsers give a folder's content in pieces. @param {FileSystemDirectoryEntry} folder */
async function listFolder(folder) {
  const reader = folder.createReader()
  const found = /** @type {FileSystemEntry[]} */ ([])
  for (;;) {
    const piece = /** @type {FileSystemEntry[]} */ (await new Promise((resolve, reject) => reader.readEntries(resolve, reject)))
    if (!piece.length) return found
    found.push(...piece)
  }
}
