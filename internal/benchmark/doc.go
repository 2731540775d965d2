// Package benchmark is the command `caddy ktls bench`, which measures on a user's machine
// what the directive ktls saves there. The folder bench is something else: it has what
// this project publishes, and needs more than a binary of Caddy.
//
// Three processes run the same binary: a server with the directive, one without it, and a
// client. The command tells them what to do as JSON on their standard input, and each
// ends when that ends. So nothing is left behind if the command is killed, but files in
// the temporary folder.
//
// The servers are measured in turn. Each turn lasts until every body that the client has
// asked for is there, so what a server has used is divided by the bytes that it was used
// for. What is compared are the two turns of a round, because machines become slower and
// faster meanwhile.
package benchmark
