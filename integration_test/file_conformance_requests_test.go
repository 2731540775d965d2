package integration_test

import (
	"fmt"
	"net/http"
	"strings"
)

// Options of file_server, and what else is around it, by a name that requests
// have in a header.
var fileServers = []struct{ name, site string }{
	{"plain", `file_server`},
	{"browse", `file_server browse`},
	{"browse options", `file_server {
		browse {
			reveal_symlinks
			sort size desc
			file_limit 5
			plain_time_format "2006-01-02T15:04:05Z07:00"
		}
	}`},
	{"hide", `file_server browse {
		hide .git *.secret hidden {$ROOT}/foodir/bar.txt {$ROOT}/list/*.txt {$ROOT}/packed.txt.gz
		precompressed gzip
		index hidden foo.txt
	}`},
	{"index", `file_server {
		index main.html {header.X-Index} bar.txt
	}`},
	{"precompressed", `file_server {
		precompressed
	}`},
	{"precompressed order", `file_server {
		precompressed gzip zstd
		etag_file_extensions .etag
	}`},
	{"status", `file_server {
		status {header.X-Status}
	}`},
	{"not canonical", `file_server {
		disable_canonical_uris
	}`},
	{"pass_thru", `file_server {
		pass_thru
	}
	respond "the next" 418`},
	{"etag", `file_server {
		etag_file_extensions .none .etag
	}`},
	{"own etag", "header Etag `\"own\"`\n\t\theader Content-Type application/x-own\n\t\tfile_server"},
	{"encode", "encode gzip\n\t\tfile_server {\n precompressed gzip\n}"},
	{"templates", "templates\n\t\tfile_server"},
	{"try_files", "try_files {path} {path}/ {path}.html?{query} =404\n\t\tfile_server"},
	{"root", "root {$ROOT}/foodir\n\t\tfile_server browse"},
	{"no root", "root {$ROOT}/nowhere\n\t\tfile_server"},
	{"stripped", "uri strip_prefix /api\n\t\tbasic_auth /secret* {\n someone $2a$14$DCYyqvUO/PWT.UifNF0rbuRkRfjrhHViOfVfJklmqrvWUoYcTiN2q\n}\n\t\tfile_server"},
	{"method", "method GET\n\t\tfile_server"},
}

// sameSites returns the sites with all of fileServers, the first with the
// module, the second without, and the third with all connections offloaded.
func sameSites() string {
	var config strings.Builder
	for _, site := range []struct{ port, ktls string }{
		{"{$PORT}", "ktls {\n min_size 8KiB\n}"}, {"{$PORT2}", ""}, {"{$PORT3}", "ktls {\n min_size 8KiB\n offload all\n}"},
	} {
		fmt.Fprintf(&config, "https://localhost:%s {\n%s\nroot {$ROOT}\n", site.port, site.ktls)
		for i, s := range fileServers {
			fmt.Fprintf(&config, "@%d header Site %q\nroute @%d {\n%s\n}\n", i, s.name, i, s.site)
		}
		config.WriteString("handle_errors {\nrewrite * /error.html\nfile_server\n}\n}\n")
	}
	return config.String()
}

// A same is a request whose answer has to be that of stock Caddy. sent says that
// the body goes out by sendfile(2).
type same struct {
	site, method, path string
	headers            []string
	status             int
	sent               bool
}

func sameRequests(etag, modified string) []same {
	get := func(site, path string, status int, sent bool, headers ...string) same {
		return same{site, http.MethodGet, path, headers, status, sent}
	}
	rows := []same{
		// Names, as in TestFileMatcher and TestTryFilesRewriteEscapesMatchedPath.
		get("plain", "/foo.txt", 200, true),
		get("plain", "/foo.txt?a=b", 200, true),
		get("plain", "/foo.txt/", 308, false),
		get("plain", "/foo.txt//", 308, false),
		get("plain", "/foo.txt/./", 308, false),
		get("plain", "/foo.txt/child", 404, false),
		get("plain", "/foo.txt%00", 400, false),
		get("plain", "/foodir", 404, false),
		get("plain", "/foodir/", 404, false),
		get("plain", "/foodir/./foo.txt", 200, true),
		get("plain", "//foodir//foo.txt", 200, true),
		get("plain", "/missing", 404, false),
		get("plain", "/.env", 200, false),
		get("plain", "/%D9%85%D9%84%D9%81.txt", 200, true),
		get("plain", "/%25D9%2585%25D9%2584%25D9%2581.txt", 200, true),
		get("plain", "/with:in-name.txt", 200, true),
		get("plain", "/foodir/secr%5Cet.txt", 200, true),
		get("plain", "/%3F.html", 200, true),
		get("plain", "/%25.html", 200, true),
		get("plain", "/nested%252Ffile.html", 200, true),
		get("plain", "/nested/%3F.html", 200, true),
		get("plain", "/foo.php.php/", 404, false),
		get("plain", "/modtime0.txt", 200, true),
		get("plain", "/modtime1.txt", 200, true),
		get("plain", "/modtime2.txt", 200, true),
		get("plain", "/empty", 200, false),
		get("plain", "/unknown.type", 200, true),
		// The root confines, links leave it.
		get("root", "/foo.txt", 200, true),
		get("root", "/../large.bin", 404, false),
		get("root", "/%2e%2e/large.bin", 404, false),
		get("root", "/..%2flarge.bin", 404, false),
		get("root", "/..%5clarge.bin", 404, false),
		get("root", "/x/../../large.bin", 404, false),
		get("root", "/x/%2e%2e/%2e%2e/large.bin", 404, false),
		get("root", "/..", 308, false),
		get("root", "/%2e%2e/", 200, false),
		get("plain", "/inside", 200, true),
		get("plain", "/outside", 200, true),
		get("plain", "/outside-dir/f", 200, true),
		get("plain", "/dangling", 404, false),
		get("plain", "/loop", 400, false),
		get("no root", "/foo.txt", 404, false),
		// What is no regular file.
		get("plain", "/fifo", 500, false),
		get("plain", "/socket", 400, false),
		get("plain", "/zero", 200, false),
		get("plain", "/proc/sys/kernel/ostype", 200, false),
		get("plain", "/proc/filesystems", 500, false),
		// hide, as in TestFileHidden and TestHiddenPrecompressedSidecar.
		get("hide", "/.git/config", 404, false),
		get("hide", "/.gitignore", 200, true),
		get("hide", "/foodir/.git/config", 404, false),
		get("hide", "/a.secret", 404, false),
		get("hide", "/a.secret2", 200, true),
		get("hide", "/foodir/bar.txt", 404, false),
		get("hide", "/foodir/bar.txt/child", 404, false),
		get("hide", "/foodir/%62ar.txt", 404, false),
		get("hide", "//foodir/./bar.txt", 404, false),
		get("hide", "/list/a.txt", 404, false),
		get("hide", "/list/b", 200, false),
		get("hide", "/list/", 200, false),
		get("hide", "/foodir/", 200, true),
		get("hide", "/packed.txt", 200, true, "Accept-Encoding", "gzip"),
		get("plain", "/foodir/bar.txt", 200, true),
		// Index files and canonical addresses.
		get("index", "/with-main/", 200, true),
		get("index", "/with-main", 308, false),
		get("index", "/foodir/", 404, false), // the empty name is the folder
		get("index", "/foodir/", 200, true, "X-Index", "foo.txt"),
		get("index", "/with-main/main.html/", 308, false),
		get("not canonical", "/foo.txt/", 200, true),
		get("not canonical", "/with-index", 200, true),
		get("plain", "/with-index?q", 308, false),
		get("plain", "/with-index/", 200, true),
		// Precompressed files.
		get("precompressed", "/packed.txt", 200, true, "Accept-Encoding", "gzip, zstd, br"),
		get("precompressed", "/packed.txt", 200, true, "Accept-Encoding", "gzip;q=0.5, zstd;q=0.1"),
		get("precompressed", "/packed.txt", 200, true, "Accept-Encoding", "gzip;q=0"),
		get("precompressed", "/packed.txt", 200, true),
		get("precompressed", "/packed.txt", 206, false, "Accept-Encoding", "gzip", "Range", "bytes=2-5"),
		get("precompressed", "/packed.txt", 206, true, "Accept-Encoding", "gzip", "Range", "bytes=2-20000"),
		get("precompressed", "/foo.txt", 200, true, "Accept-Encoding", "gzip"),
		get("precompressed order", "/packed.txt", 200, true, "Accept-Encoding", "zstd, gzip"),
		get("encode", "/packed.txt", 200, true, "Accept-Encoding", "gzip"),
		get("encode", "/large.txt", 200, false, "Accept-Encoding", "gzip"),
		get("encode", "/large.txt", 200, true),
		get("templates", "/large.txt", 200, false),
		// Other options.
		get("status", "/foo.txt", 203, false, "X-Status", "203"),
		get("status", "/foo.txt", 500, false, "X-Status", "x"),
		get("status", "/foo.txt", 203, false, "X-Status", "203", "Range", "bytes=0-19999"),
		get("pass_thru", "/missing", 418, false),
		get("pass_thru", "/foo.txt/child", 418, false),
		get("pass_thru", "/foo.txt", 200, true),
		get("etag", "/foo.txt", 200, true),
		get("etag", "/foo.txt", 304, false, "If-None-Match", `"from-a-file"`),
		get("own etag", "/foo.txt", 200, true),
		get("own etag", "/foo.txt", 304, false, "If-None-Match", `"own"`),
		get("try_files", "/foo.txt", 200, true),
		get("try_files", "/with-index/index?x=1", 200, true),
		get("try_files", "/missing", 404, false),
		get("try_files", "/%253F", 200, true),
		get("stripped", "/api/foo.txt", 200, true),
		get("stripped", "/api/secret", 401, false),
		get("stripped", "/api../secret", 401, false),
		get("stripped", "/api..%2fsecret", 401, false),
		// Listings, as in TestBrowsePlainTimeFormat.
		get("browse", "/list/", 200, false),
		get("browse", "/list", 308, false),
		get("browse", "/list/", 200, false, "Accept", "application/json"),
		get("browse", "/list/", 200, false, "Accept", "text/plain"),
		get("browse", "/list/?sort=size&order=desc&limit=2", 200, false),
		get("browse", "/list/", 304, false, "If-Modified-Since", "Tue, 01 Jan 2999 00:00:00 GMT"),
		get("browse options", "/list/", 200, false, "Accept", "text/plain"),
		get("browse options", "/list/", 200, false, "Accept", "application/json"),
		get("browse", "/list/%2e%2e/list/../foo.txt", 200, true),
		// Ranges and conditions.
		get("plain", "/large.bin", 206, true, "Range", "bytes=0-"),
		get("plain", "/large.bin", 206, true, "Range", "bytes=100-70000"),
		get("plain", "/large.bin", 206, true, "Range", "bytes=-70000"),
		get("plain", "/large.bin", 206, false, "Range", "bytes=0-0"),
		get("plain", "/large.bin", 206, false, "Range", "bytes=8-8198"),
		get("plain", "/large.bin", 206, true, "Range", "bytes=8-8199"),
		get("plain", "/large.bin", 416, false, "Range", "bytes=99999999-"),
		get("plain", "/large.bin", 416, false, "Range", "bytes=x-"),
		get("plain", "/large.bin", 416, false, "Range", "lines=1-2"),
		get("plain", "/large.bin", 416, false, "Range", "bytes=5-1"),
		get("plain", "/large.bin", 200, true, "Range", "bytes=0-,0-,0-"),
		get("plain", "/empty", 200, false, "Range", "bytes=0-"),
		get("plain", "/large.bin", 206, true, "Range", "bytes=10-90009", "If-Range", etag),
		get("plain", "/large.bin", 200, true, "Range", "bytes=10-90009", "If-Range", `"other"`),
		get("plain", "/large.bin", 206, true, "Range", "bytes=10-90009", "If-Range", modified),
		get("plain", "/large.bin", 304, false, "If-None-Match", etag),
		get("plain", "/large.bin", 304, false, "If-None-Match", "*"),
		get("plain", "/large.bin", 304, false, "If-Modified-Since", modified),
		get("plain", "/large.bin", 200, true, "If-None-Match", `"other"`, "If-Modified-Since", modified),
		get("plain", "/large.bin", 200, true, "If-Unmodified-Since", modified),
		get("plain", "/large.bin", 412, false, "If-Unmodified-Since", "Mon, 01 Jan 2001 00:00:00 GMT"),
		get("plain", "/large.bin", 200, true, "If-Match", etag),
		get("plain", "/large.bin", 412, false, "If-Match", `"other"`),
		// Methods.
		{"plain", http.MethodHead, "/large.bin", nil, 200, false},
		{"plain", http.MethodHead, "/large.bin", []string{"Range", "bytes=0-99999"}, 206, false},
		{"plain", http.MethodHead, "/missing", nil, 404, false},
		{"precompressed", http.MethodHead, "/packed.txt", []string{"Accept-Encoding", "gzip"}, 200, false},
		{"browse", http.MethodHead, "/list/", nil, 200, false},
		{"method", http.MethodHead, "/large.bin", nil, 200, false},
		{"method", http.MethodDelete, "/large.bin", nil, 200, true},
		{"plain", http.MethodDelete, "/large.bin", nil, 405, false},
		{"plain", http.MethodOptions, "/large.bin", nil, 405, false},
		{"browse", http.MethodDelete, "/list/", nil, 200, false},
	}
	return rows
}

func (r same) String() string {
	return strings.Join(append([]string{r.site + ":", r.method, r.path}, r.headers...), " ")
}
