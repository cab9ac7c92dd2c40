import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Declares, uploads, completes and downloads with java.net.http.HttpClient as it comes.
 *
 * With its default settings the client asks for HTTP/2 by `Upgrade: h2c` on the first request of each connection.
 * Arguments: the API's URL and the file to send. The key is in ASSAY_KEY. It prints the id of each file.
 */
public class Client {
    static final String API_TYPE = "application/octet-stream";
    static String api;
    static String key;

    public static void main(String[] arguments) throws Exception {
        api = arguments[0];
        key = System.getenv("ASSAY_KEY");
        byte[] body = Files.readAllBytes(Path.of(arguments[1]));
        check(stream(BodyPublishers.ofByteArray(body)), body);
        check(stream(BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(body))), body);
        check(declareAndPut(body), body);
    }

    /** POST /files/upload, on a connection of its own. The publisher decides on a length or chunks. */
    static String stream(BodyPublisher publisher) throws Exception {
        HttpRequest request = request("/files/upload?filename=java-stream").header("Content-Type", API_TYPE).POST(publisher).build();
        return find("id", send(request, 201));
    }

    /** POST /files, PUT to the store, and complete with the digest. */
    static String declareAndPut(byte[] body) throws Exception {
        String digest = digest(body);
        String about = "{\"filename\": \"java-put\", \"size\": " + body.length + ", \"content_type\": \"" + API_TYPE + "\"}";
        String declared = send(request("/files").header("Content-Type", "application/json").POST(BodyPublishers.ofString(about)).build(), 201);
        HttpRequest.Builder put = HttpRequest.newBuilder(URI.create(find("url", declared))).PUT(BodyPublishers.ofByteArray(body));
        Matcher headers = Pattern.compile("\"headers\":\\{([^}]*)}").matcher(declared);
        if (!headers.find()) {
            throw new IllegalStateException("no headers in " + declared);
        }
        Matcher header = Pattern.compile("\"([^\"]+)\":\"([^\"]+)\"").matcher(headers.group(1));
        while (header.find()) {
            put.header(header.group(1), header.group(2));
        }
        send(put.build(), 200);
        String id = find("id", declared);
        String said = "{\"sha256\": \"" + digest + "\"}";
        send(request("/files/" + id + "/complete?wait=20").header("Content-Type", "application/json").POST(BodyPublishers.ofString(said)).build(), 200);
        String other = "{\"sha256\": \"" + "0".repeat(64) + "\"}";
        send(request("/files/" + id + "/complete").header("Content-Type", "application/json").POST(BodyPublishers.ofString(other)).build(), 409);
        return id;
    }

    /** The download has the digest of what was sent. */
    static void check(String id, byte[] body) throws Exception {
        HttpResponse<byte[]> answer = HttpClient.newHttpClient().send(request("/files/" + id).build(), BodyHandlers.ofByteArray());
        if (answer.statusCode() != 200 || !digest(answer.body()).equals(digest(body))) {
            throw new IllegalStateException("the download of " + id + ": " + answer + ", " + answer.body().length + " bytes");
        }
        System.out.println(id);
    }

    static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(api + path)).header("Authorization", "Bearer " + key);
    }

    /** A client of its own, so that each request opens a connection and asks for the upgrade. */
    static String send(HttpRequest request, int status) throws Exception {
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        if (answer.statusCode() != status) {
            throw new IllegalStateException(request + ": " + answer.statusCode() + " " + answer.body());
        }
        return answer.body();
    }

    static String find(String name, String json) {
        Matcher matcher = Pattern.compile("\"" + name + "\":\"([^\"]+)\"").matcher(json);
        if (!matcher.find()) {
            throw new IllegalStateException("no " + name + " in " + json);
        }
        return matcher.group(1);
    }

    static String digest(byte[] body) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
    }
}
