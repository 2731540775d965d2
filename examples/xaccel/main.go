// Xaccel is an application that decides who may have which file, and has Caddy send it.
// docs/authorised-downloads.md explains it.
package main

import (
	"cmp"
	"crypto/subtle"
	"log"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
)

// A real application has accounts.
var passwords = map[string]string{"alice": "rabbit", "bob": "builder"}

// download gives users the files in the folder that has their name.
func download(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	want, known := passwords[user]
	if !known || subtle.ConstantTimeCompare([]byte(password), []byte(want)) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="files"`)
		http.Error(w, "Who are you?", http.StatusUnauthorized)
		return
	}
	// Judge the path of the file, not the one that the client has written.
	name := path.Clean("/" + r.URL.Path)
	if !strings.HasPrefix(name, "/"+user+"/") {
		http.Error(w, "This is not yours.", http.StatusForbidden)
		return
	}
	w.Header().Set("Cache-Control", "private")
	w.Header().Set("Content-Disposition", "attachment")
	// Caddy decodes it, so that names may have any characters.
	w.Header().Set("X-Accel-Redirect", (&url.URL{Path: name}).EscapedPath())
}

func main() {
	address := cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:9000")
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(download)))
}
