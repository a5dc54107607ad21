. "$DRIVERS/common.sh"
export RCLONE_CONFIG=/dev/null RCLONE_FTP_HOST="$HOST" RCLONE_FTP_PORT="$PORT" RCLONE_FTP_USER="$WHO"
RCLONE_FTP_PASS=$(rclone obscure "$WORD")
export RCLONE_FTP_PASS
# Its option for authorities counts for HTTP alone, this variable of Go for everything.
export SSL_CERT_FILE="$CA"
case $TLS in
plain) ;;
1.2) export RCLONE_FTP_EXPLICIT_TLS=true RCLONE_FTP_DISABLE_TLS13=true ;;
*) export RCLONE_FTP_EXPLICIT_TLS=true ;;
esac
set -- --retries 1 --low-level-retries 1 --transfers 1 --checkers 1
mkdir up
cp "$DATA" up/one
cp "$DATA" up/two
cp "$DATA" up/three
rclone "$@" copy up :ftp:
rclone "$@" lsf :ftp: >list
has list one two three
rclone "$@" copyto :ftp:one back
half=$(stat -c %s tail)
rclone "$@" cat --offset "$half" :ftp:one >>tail
rclone "$@" moveto :ftp:two :ftp:four
rclone "$@" deletefile :ftp:three
