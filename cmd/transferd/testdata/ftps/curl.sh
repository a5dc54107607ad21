. "$DRIVERS/common.sh"
url=ftp://$HOST:$PORT/
case $TLS in
plain) set -- ;;
*) set -- --ssl-reqd --cacert "$CA" --tlsv1.2 "--tlsv$TLS" --tls-max "$TLS" ;;
esac
set -- -sSv -m 60 -u "$WHO:$WORD" "$@"
# One process: its uploads share a control connection.
curl "$@" -T "$DATA" "${url}one" -T "$DATA" "${url}two" -T "$DATA" "${url}three"
curl "$@" -l "$url" -o list
has list one two three
curl "$@" "${url}one" -o back
curl "$@" -C - "${url}one" -o tail
curl "$@" -l "$url" -o /dev/null -Q "RNFR two" -Q "RNTO four" -Q "DELE three"
curl "$@" -T half "${url}five"
curl "$@" -C - -T "$DATA" "${url}five"
