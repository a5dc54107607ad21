package api_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"

	"github.com/transferd/transferd/workflow"
)

// Whoever pages through a list sees everything that was there all the time exactly once, whatever comes and goes
// between the pages, and even if it is the item that the token points to.
func TestPagesAreStable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	var stay []string
	for i := range 30 {
		name := fmt.Sprintf("user%03d", 10*i)
		w.newUser(t, id, name)
		if i%3 != 2 {
			stay = append(stay, name)
		}
	}
	seen := map[string]int{}
	pages := transfer.NewListUsersPaginator(w.sdk, &transfer.ListUsersInput{ServerId: &id, MaxResults: aws.Int32(3)})
	for n := 0; pages.HasMorePages(); n++ {
		p := ok[*transfer.ListUsersOutput](t)(pages.NextPage(t.Context()))
		last := ""
		for _, u := range p.Users {
			seen[*u.UserName]++
			last = *u.UserName
		}
		if !slices.Contains(stay, last) { // the last of each page, which the token is made of
			if _, err := w.sdk.DeleteUser(t.Context(), &transfer.DeleteUserInput{ServerId: &id, UserName: &last}); err != nil {
				t.Fatal(err)
			}
		}
		w.newUser(t, id, fmt.Sprintf("user%03d", 10*n+1))       // before what was seen
		w.newUser(t, id, fmt.Sprintf("user%03d", 10*(3*n+4)+2)) // after it, if there is more
	}
	for _, name := range stay {
		if seen[name] != 1 {
			t.Errorf("%s was seen %d times", name, seen[name])
		}
	}
	for name, n := range seen {
		if n > 1 {
			t.Errorf("%s was seen %d times", name, n)
		}
	}
}

func TestMaxResults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		max     string
		refused string
	}{
		{"1", ""}, {"1000", ""}, {"null", ""},
		{"0", "ValidationException"}, {"1001", "ValidationException"}, {"-1", "ValidationException"},
		{"1.5", "SerializationException"}, {`"1"`, "SerializationException"},
	} {
		a := w.call(t, "ListServers", `{"MaxResults":`+c.max+`}`)
		if c.refused != "" {
			a.refused(t, 400, c.refused, "axResults")
		} else if a.Status != 200 {
			t.Errorf("%s: %s", c.max, a.Body)
		}
	}
}

// A token whose execution is forgotten is refused: an end of the list would be a lie.
func TestTokenOfAForgottenExecution(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow, id := w.newWorkflow(t), w.newServer(t)
	var all []workflow.ExecutionID
	for i := range 3 {
		all = append(all, w.execution(flow, id, i, true).ExecutionId)
	}
	p := ok[*transfer.ListExecutionsOutput](t)(w.sdk.ListExecutions(t.Context(), &transfer.ListExecutionsInput{WorkflowId: &flow, MaxResults: aws.Int32(1)}))
	if len(p.Executions) != 1 || p.NextToken == nil {
		t.Fatalf("got %s of %v", pretty(p), all)
	}
	w.forget(workflow.ExecutionID(*p.Executions[0].ExecutionId))
	_, err := w.sdk.ListExecutions(t.Context(), &transfer.ListExecutionsInput{WorkflowId: &flow, NextToken: p.NextToken})
	refusal(t, err, "InvalidNextTokenException", "begin anew")
}

// forget forgets an execution, as retention does.
func (c *catalogue) forget(id workflow.ExecutionID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.executions, id)
}
