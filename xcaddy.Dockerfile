# Caddy with kernel TLS in a container: the official builder image with xcaddy,
# and the official runtime image with the program exchanged.
#
#   docker build -f xcaddy.Dockerfile -t caddy-ktls .
#
# This takes the module from this folder. With --build-arg KTLS_VERSION= and the name of a
# release it takes that.
#
# A container has the kernel of its host, so the host needs the module tls, and a
# container can't load it: on the host run `modprobe tls`, and once, for every
# boot, `echo tls >/etc/modules-load.d/tls.conf`. Without it the sites work as in
# stock Caddy. After it, a reload of Caddy is enough.

ARG CADDY_VERSION=2.11.9

FROM caddy:${CADDY_VERSION}-builder AS builder
ARG KTLS_VERSION=
COPY . /src
# The image tells xcaddy which Caddy to build.
RUN module=github.com/caddy-ktls/caddy-ktls; \
	if [ -n "$KTLS_VERSION" ]; then with="$module@$KTLS_VERSION"; else with="$module=/src"; fi; \
	xcaddy build --output /usr/bin/caddy --with "$with"

FROM caddy:${CADDY_VERSION}
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
