# What the shell drivers share. Each driver is one client's day: three uploads, a list, a download, a resumed download, a
# rename, a delete, and a broken upload, `five`, that is resumed. It ends at the first command that fails, with whatever the client said.
# From the test: HOST PORT WHO WORD (the login), TLS (plain, 1.2 or 1.3), CA, DATA (the file), and in OUT the file `tail`,
# the first half of DATA. It leaves DATA's copies `back` and `tail` in OUT.
set -eu
cd "$OUT"
cp tail half
has() { # file, names: the listing has each of them
	list=$1
	shift
	for name in "$@"; do
		grep -qw "$name" "$list" || { echo "the list lacks $name:"; cat "$list"; exit 1; }
	done
}
