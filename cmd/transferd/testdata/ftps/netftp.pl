# Perl's Net::FTP.
use strict;
use warnings;
use Net::FTP;

my ($data, $out, $tls) = @ENV{qw(DATA OUT TLS)};
my %secure = $tls eq 'plain' ? () : (SSL_ca_file => $ENV{CA}, SSL_version => $tls eq '1.2' ? 'TLSv1_2' : 'TLSv1_3');
my $ftp = Net::FTP->new($ENV{HOST}, Port => $ENV{PORT}, Passive => 1, Timeout => 60, %secure) or die "connect: $@";

sub must {
    my ($ok, $what) = @_;
    die "$what: " . $ftp->message . " ($@)\n" unless defined $ok && $ok;
}
if ($tls ne 'plain') { must($ftp->starttls, 'AUTH TLS') }
must($ftp->login($ENV{WHO}, $ENV{WORD}), 'login');
must($ftp->binary, 'binary');
must($ftp->put($data, $_), "put $_") for qw(one two three);
my %there = map { $_ => 1 } $ftp->ls;
$there{$_} or die "the list lacks $_: " . $ftp->message for qw(one two three);
must($ftp->get('one', "$out/back"), 'get');
must($ftp->get('one', "$out/tail", -s "$out/tail"), 'resume');
must($ftp->rename('two', 'four'), 'rename');
must($ftp->delete('three'), 'delete');
my $size = int((-s $data) / 2);
open(my $in, '<:raw', $data) or die "$data: $!";
read($in, my $half, $size) == $size or die "$data: $!";
open(my $begin, '<:raw', \$half) or die "half: $!";
must($ftp->put($begin, 'five'), 'put half');
must($ftp->append($in, 'five'), 'append'); # from where it was read to
$ftp->quit;
