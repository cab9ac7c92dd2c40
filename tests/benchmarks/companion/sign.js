/**
 * Sign URLs as Companion's route `/s3/sign` does, with the same library, and print the number per
 * second. Nothing is sent and no row is written.
 *
 *     node sign.js ENDPOINT COUNT CLIENTS
 */
import { PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const [endpoint, count, clients] = process.argv.slice(2);
const client = new S3Client({
  endpoint,
  region: "us-east-1",
  forcePathStyle: true,
  credentials: { accessKeyId: "benchmark", secretAccessKey: "benchmark-secret" },
});
let left = Number(count);

async function signSome() {
  while (left > 0) {
    left -= 1;
    const command = new PutObjectCommand({
      Bucket: "incoming",
      Key: crypto.randomUUID(),
      ContentType: "image/jpeg",
    });
    const url = await getSignedUrl(client, command, { expiresIn: 800 });
    if (!url.includes("X-Amz-Signature=")) throw new Error(url);
  }
}

async function signAll() {
  await Promise.all(Array.from({ length: Number(clients) }, signSome));
}

left = Math.ceil(Number(count) / 10);
await signAll(); // warm up
left = Number(count);
const begun = performance.now();
await signAll();
console.log((Number(count) * 1000) / (performance.now() - begun));
