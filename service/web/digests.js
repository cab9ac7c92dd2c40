/**
 * SHA-256 by WebCrypto. Browsers provide it only to pages that were loaded over https or from the
 * same machine.
 */

export const CAN_DIGEST = globalThis.crypto?.subtle !== undefined
/** WebCrypto digests only a whole buffer, so that larger pieces would take too much memory. */
export const LARGEST_DIGESTED_BYTES = 1024 ** 3
const KEY_BYTES = 16

/**
 * Return the SHA-256 of a piece of a file in hexadecimal. Return undefined if the browser has no
 * WebCrypto or the piece is too large. The piece is then sent without a digest.
 * @param {Blob} piece
 * @param {SubtleCrypto | undefined} subtle
 * @returns {Promise<string | undefined>}
 */
export async function digestPiece(piece, subtle = globalThis.crypto?.subtle) {
  if (!subtle || piece.size > LARGEST_DIGESTED_BYTES) return undefined
  return writeHex(new Uint8Array(await subtle.digest("SHA-256", await piece.arrayBuffer())))
}

/** Return 128 random bits. (`crypto.randomUUID` is missing over plain http.) */
export function makeKey() {
  return writeHex(crypto.getRandomValues(new Uint8Array(KEY_BYTES)))
}

/** @param {Uint8Array} bytes */
function writeHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
}
