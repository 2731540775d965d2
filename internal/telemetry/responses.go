package telemetry

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Responses counts and logs the responses of a handler.
type Responses struct {
	count  *counters
	logger *zap.Logger
}

// NewResponses returns the Responses of a handler of an HTTP server, by the server's
// name.
func NewResponses(logger *zap.Logger, server string) *Responses {
	return &Responses{count: countersOf(server), logger: logger}
}

// Sending counts and logs a response whose body is a file.
func (r *Responses) Sending(_ *http.Request, reason fileserver.Reason) {
	r.count.sending(reason)
	if reason != fileserver.ReasonNone {
		reasonLog.info(r.logger, "file is copied instead of sent by the kernel", string(reason))
	}
}

// Failed counts and logs a response by sendfile(2) that was not sent whole.
func (r *Responses) Failed(req *http.Request, err error) {
	r.count.failed.Inc()
	r.logger.Debug("sending a file failed",
		zap.String("remote", req.RemoteAddr), zap.String("uri", req.RequestURI), zap.Error(err))
}

// Done counts and logs a response that has been handled.
func (r *Responses) Done(req *http.Request, response *fileserver.Response) {
	r.count.done(response)
	if entry := r.logger.Check(zap.DebugLevel, "response"); entry != nil {
		entry.Write(zap.String("remote", req.RemoteAddr), zap.String("uri", req.RequestURI),
			zap.String("status", status(response)), zap.Int64("sendfile_bytes", response.Sent()), zap.Int64("copied_bytes", response.Copied()))
	}
}

// Unsupported counts a response where the kernel has no kernel TLS.
func (r *Responses) Unsupported() {
	r.count.sending(fileserver.Reason(ktls.KernelUnsupported.String()))
}

// Placeholder returns the value of a placeholder of the handler. response is nil where
// the kernel has no kernel TLS.
func Placeholder(response *fileserver.Response, key string) (value any, known bool) {
	switch key {
	case "http.ktls.status":
		return status(response), true
	case "http.ktls.sendfile_bytes":
		if response == nil {
			return int64(0), true
		}
		return response.Sent(), true
	}
	return nil, false
}

// status says whether a response's connection is offloaded, or why not. If the connection
// is offloaded but the body, a file, is copied, it says why that is.
func status(response *fileserver.Response) string {
	if response == nil {
		return ktls.KernelUnsupported.String()
	}
	if response.Eligible() && response.Reason() != fileserver.ReasonNone {
		return string(response.Reason())
	}
	offload, ok := response.Offload()
	if !ok {
		return string(fileserver.ReasonNotOffloadable)
	}
	return offload.String()
}
