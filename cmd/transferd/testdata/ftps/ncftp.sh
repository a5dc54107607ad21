. "$DRIVERS/common.sh"
# It has no TLS. Its batch tools tell of errors by their exit code, which the shell ncftp does not.
cp "$DATA" one
cp "$DATA" two
cp "$DATA" three
ncftpput -d stdout -t 30 -r 1 -V -u "$WHO" -p "$WORD" -P "$PORT" "$HOST" / one two three
rm one two three
ncftpls -t 30 -r 1 -1 -u "$WHO" -p "$WORD" -P "$PORT" "ftp://$HOST/" >list
has list one two three
ncftpget -t 30 -r 1 -V -Z -u "$WHO" -p "$WORD" -P "$PORT" "$HOST" . /one
mv one back
mv tail one
ncftpget -t 30 -r 1 -V -z -u "$WHO" -p "$WORD" -P "$PORT" "$HOST" . /one
mv one tail
ncftpls -t 30 -r 1 -W "RNFR two" -W "RNTO four" -W "DELE three" -u "$WHO" -p "$WORD" -P "$PORT" "ftp://$HOST/" >left
has left one four
cp half five
ncftpput -t 30 -r 1 -V -u "$WHO" -p "$WORD" -P "$PORT" "$HOST" / five
cp "$DATA" five
ncftpput -d stdout -t 30 -r 1 -V -s -z -u "$WHO" -p "$WORD" -P "$PORT" "$HOST" / five
