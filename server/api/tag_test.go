package api_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server"
)

func tag(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }

func (w *world) tag(t testing.TB, arn string, tags ...types.Tag) error {
	t.Helper()
	_, err := w.sdk.TagResource(t.Context(), &transfer.TagResourceInput{Arn: &arn, Tags: tags})
	return err
}

func (w *world) untag(t testing.TB, arn string, keys ...string) error {
	t.Helper()
	_, err := w.sdk.UntagResource(t.Context(), &transfer.UntagResourceInput{Arn: &arn, TagKeys: keys})
	return err
}

func (w *world) tagsOf(t testing.TB, arn string) []types.Tag {
	t.Helper()
	out := ok[*transfer.ListTagsForResourceOutput](t)(w.sdk.ListTagsForResource(t.Context(), &transfer.ListTagsForResourceInput{Arn: &arn}))
	if *out.Arn != arn {
		t.Errorf("tags of %s, want %s", *out.Arn, arn)
	}
	return out.Tags
}

func TestTagsOfEveryResource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, flow := w.newServer(t), w.newWorkflow(t)
	if err := w.untag(t, "arn:aws:transfer:eu-central-1:123456789012:workflow/"+flow, "a"); err != nil {
		t.Fatal(err)
	}
	w.newUser(t, id, "anna")
	key := w.hostKeys(t, id)[0]
	for _, resource := range []string{"server/" + id, "user/" + id + "/anna", "host-key/" + id + "/" + *key.HostKeyId, "workflow/" + flow} {
		arn := "arn:aws:transfer:eu-central-1:123456789012:" + resource
		if got := w.tagsOf(t, arn); len(got) != 0 {
			t.Errorf("%s begins with %s", resource, pretty(got))
		}
		if err := w.tag(t, arn, tag("b", "1"), tag("a", "2")); err != nil {
			t.Fatal(err)
		}
		if err := w.tag(t, arn, tag("b", "3")); err != nil {
			t.Fatal(err)
		}
		if got, want := w.tagsOf(t, arn), []types.Tag{tag("a", "2"), tag("b", "3")}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s has %s", resource, pretty(got))
		}
		if err := w.untag(t, arn, "a", "never-there"); err != nil {
			t.Fatal(err)
		}
		if got, want := w.tagsOf(t, arn), []types.Tag{tag("b", "3")}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s has %s", resource, pretty(got))
		}
	}
	if s := w.describe(t, id); len(s.Tags) != 1 {
		t.Errorf("DescribeServer shows %s", pretty(s.Tags))
	}
	if k := w.hostKey(t, id, *key.HostKeyId); len(k.Tags) != 1 {
		t.Errorf("DescribeHostKey shows %s", pretty(k.Tags))
	}
}

// The service's own tags stay whatever callers do, and do not count.
func TestOwnTagsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	arn := "arn:aws:transfer:eu-central-1:123456789012:server/" + id
	if err := w.UpdateServer(t.Context(), server.ID(id), func(s *server.Server) error {
		s.Tags = []server.Tag{{Key: "aws:transferd:sftp-address", Value: "127.0.0.1:22"}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var fifty []types.Tag
	for i := range 50 {
		fifty = append(fifty, tag(fmt.Sprint(i), ""))
	}
	if err := w.tag(t, arn, fifty...); err != nil {
		t.Fatal(err)
	}
	refusal(t, w.tag(t, arn, tag("one more", "")), "InvalidRequestException", "50")
	if err := w.tag(t, arn, tag("7", "again")); err != nil {
		t.Errorf("a tag that is there already: %v", err)
	}
	for _, key := range []string{"aws:transferd:sftp-address", "aws:x", "AWS:x"} {
		refusal(t, w.tag(t, arn, tag(key, "mine")), "InvalidRequestException", "reserved")
		refusal(t, w.untag(t, arn, key), "InvalidRequestException", "reserved")
	}
	refusal(t, w.tag(t, arn, tag("", "")), "InvalidRequestException", "empty")
	for i := range 50 {
		if err := w.untag(t, arn, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := w.tagsOf(t, arn), []types.Tag{tag("aws:transferd:sftp-address", "127.0.0.1:22")}; !reflect.DeepEqual(got, want) {
		t.Errorf("left: %s", pretty(got))
	}
}

func TestTagsOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	const ours = "arn:aws:transfer:eu-central-1:123456789012:"
	for arn, exception := range map[string]string{
		ours + "server/s-0123456789abcdef0":                          "ResourceNotFoundException",
		ours + "user/" + id + "/nobody":                              "ResourceNotFoundException",
		ours + "workflow/w-0123456789abcdef0":                        "ResourceNotFoundException",
		ours + "host-key/" + id + "/hostkey-0123456789abcdef0":       "ResourceNotFoundException",
		ours + "access/" + id + "/S-1-5":                             "InvalidRequestException",
		ours + "host-key/" + id:                                      "InvalidRequestException",
		ours + "server":                                              "InvalidRequestException",
		ours + "server/" + id + "/more":                              "InvalidRequestException",
		"arn:aws:transfer:us-east-1:123456789012:server/" + id:       "InvalidRequestException",
		"arn:aws:transfer:eu-central-1:999999999999:server/" + id:    "InvalidRequestException",
		"arn:aws:s3:eu-central-1:123456789012:server/" + id:          "InvalidRequestException",
		"arn:aws-cn:transfer:eu-central-1:123456789012:server/" + id: "InvalidRequestException",
		"arn:aws:transfer:everything-else-is-missing":                "InvalidRequestException",
		"not an arn at all, by far":                                  "ValidationException",
	} {
		refusal(t, w.tag(t, arn, tag("a", "b")), exception)
		refusal(t, w.untag(t, arn, "a"), exception)
		_, err := w.sdk.ListTagsForResource(t.Context(), &transfer.ListTagsForResourceInput{Arn: &arn})
		refusal(t, err, exception)
	}
}

func TestListTagsPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	arn := "arn:aws:transfer:eu-central-1:123456789012:server/" + w.newServer(t)
	if err := w.tag(t, arn, tag("c", ""), tag("a", ""), tag("b", "")); err != nil {
		t.Fatal(err)
	}
	var got []string
	pages := transfer.NewListTagsForResourcePaginator(w.sdk, &transfer.ListTagsForResourceInput{Arn: &arn, MaxResults: aws.Int32(2)})
	for pages.HasMorePages() {
		for _, tag := range ok[*transfer.ListTagsForResourceOutput](t)(pages.NextPage(t.Context())).Tags {
			got = append(got, *tag.Key)
		}
	}
	if !reflect.DeepEqual(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v", got)
	}
}
