<?php // PHP's ftp extension. It takes the TLS version from OpenSSL's configuration, which the test writes.
set_error_handler(function ($level, $text) { fwrite(STDERR, "$text\n"); });
function must($ok, string $what) { if ($ok === false) { fwrite(STDERR, "$what failed\n"); exit(1); } return $ok; }
[$data, $out] = [getenv('DATA'), getenv('OUT')];
$connect = getenv('TLS') === 'plain' ? 'ftp_connect' : 'ftp_ssl_connect';
$ftp = must($connect(getenv('HOST'), (int)getenv('PORT'), 60), 'connect');
must(ftp_login($ftp, getenv('WHO'), getenv('WORD')), 'login');
must(ftp_pasv($ftp, true), 'pasv');
foreach (['one', 'two', 'three'] as $name) must(ftp_put($ftp, $name, $data, FTP_BINARY), "put $name");
$names = must(ftp_nlist($ftp, '.'), 'list');
foreach (['one', 'two', 'three'] as $name) must(in_array($name, array_map('basename', $names)), "$name in the list");
must(ftp_get($ftp, "$out/back", 'one', FTP_BINARY), 'get');
must(ftp_get($ftp, "$out/tail", 'one', FTP_BINARY, filesize("$out/tail")), 'resume');
must(ftp_rename($ftp, 'two', 'four'), 'rename');
must(ftp_delete($ftp, 'three'), 'delete');
$size = intdiv(filesize($data), 2);
file_put_contents("$out/half", file_get_contents($data, false, null, 0, $size));
must(ftp_put($ftp, 'five', "$out/half", FTP_BINARY), 'put half');
must(ftp_put($ftp, 'five', $data, FTP_BINARY, $size), 'resume put');
ftp_close($ftp);
