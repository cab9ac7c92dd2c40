/** SHA-256 by WebCrypto, which browsers have over https and on this machine alone. */

export const CAN_DIGEST = globalThis.crypto?.subtle !== undefined
/** WebCrypto takes a digest of a whole buffer only: what is larger goes without. */
export const LARGEST_DIGESTED_BYTES = 1024 ** 3

/** @param {ArrayBuffer} bytes */
async function digest(bytes) {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))
  return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("")
}

/** Undefined: it goes without. @param {Blob} piece @returns {Promise<string | undefined>} */
export async function digestPiece(piece) {
  if (!CAN_DIGEST || piece.size > LARGEST_DIGESTED_BYTES) return undefined
  return digest(await piece.arrayBuffer())
}
