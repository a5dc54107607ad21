. "$DRIVERS/common.sh"
# Debian's tnftp speaks TLS for HTTPS alone. It tells nothing by its exit code, so what it left is looked at.
tnftp -n -v -i -p "$HOST" "$PORT" <<END
user $WHO $WORD
binary
put $DATA one
put $DATA two
put $DATA three
nlist . list
get one back
reget one tail
rename two four
delete three
put half five
restart $(stat -c %s half)
put $DATA five
quit
END
touch list
has list one two three
