. "$DRIVERS/common.sh"
secure=true
versions=""
case $TLS in
plain) secure=false ;;
*) versions="set ssl:priority NORMAL:-VERS-ALL:+VERS-TLS$TLS;" ;;
esac
lftp -c "debug 4; set net:max-retries 1; set net:timeout 60; set cmd:fail-exit yes; set ssl:ca-file $CA; $versions
set ftp:ssl-allow $secure; set ftp:ssl-force $secure; set ftp:ssl-protect-data $secure;
open -u $WHO,$WORD ftp://$HOST:$PORT; put $DATA -o one; put $DATA -o two; put $DATA -o three; cls -1 > list;
get one -o back; get -c one -o tail; mv two four; rm three;
put half -o five; put -c $DATA -o five; bye"
has list one two three
