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
 * A program that declares, uploads, completes and downloads with an unmodified HttpClient.
 *
 * With its default settings, java.net.http.HttpClient requests an upgrade to HTTP/2 with
 * `Upgrade: h2c` on the first request of each connection.
 *
 * The arguments are the API's URL and the file to send. The environment variable ASSAY_KEY has
 * the key. The program prints the id of each file.
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
        BodyPublisher chunked =
                BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(body));
        check(stream(chunked), body);
        check(declareAndPut(body), body);
    }

    /**
     * Send POST /files/upload on a new connection, and return the file's id.
     *
     * The publisher determines whether the body has a length or is sent in chunks.
     */
    static String stream(BodyPublisher publisher) throws Exception {
        String path = "/files/upload?filename=java-stream";
        return find("id", send(post(path, API_TYPE, publisher), 201));
    }

    /** Declare a file, send it to the store, complete it with its digest, and return its id. */
    static String declareAndPut(byte[] body) throws Exception {
        String digest = digest(body);
        String about = "{\"filename\": \"java-put\", \"size\": " + body.length
                + ", \"content_type\": \"" + API_TYPE + "\"}";
        String declared = send(postJson("/files", about), 201);
        HttpRequest.Builder put = HttpRequest.newBuilder(URI.create(find("url", declared)))
                .PUT(BodyPublishers.ofByteArray(body));
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
        send(postJson("/files/" + id + "/complete?wait=20", said), 200);
        String other = "{\"sha256\": \"" + "0".repeat(64) + "\"}";
        send(postJson("/files/" + id + "/complete", other), 409);
        return id;
    }

    /** Download the file, and throw if its digest differs from that of the sent bytes. */
    static void check(String id, byte[] body) throws Exception {
        HttpRequest request = request("/files/" + id).build();
        HttpResponse<byte[]> answer =
                HttpClient.newHttpClient().send(request, BodyHandlers.ofByteArray());
        if (answer.statusCode() != 200 || !digest(answer.body()).equals(digest(body))) {
            int length = answer.body().length;
            throw new IllegalStateException("download " + id + ": " + answer + ", " + length);
        }
        System.out.println(id);
    }

    static HttpRequest postJson(String path, String document) {
        return post(path, "application/json", BodyPublishers.ofString(document));
    }

    static HttpRequest post(String path, String type, BodyPublisher publisher) {
        return request(path).header("Content-Type", type).POST(publisher).build();
    }

    static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(api + path))
                .header("Authorization", "Bearer " + key);
    }

    /**
     * Send the request, and return the body of the response.
     *
     * Each request uses a new client, so that it opens a connection and requests the upgrade.
     */
    static String send(HttpRequest request, int status) throws Exception {
        HttpResponse<String> answer =
                HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        if (answer.statusCode() != status) {
            throw new IllegalStateException(
                    request + ": " + answer.statusCode() + " " + answer.body());
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
