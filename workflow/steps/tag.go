package steps

import (
	"context"
	"encoding/json"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// Tag puts tags on a file. The file's other tags stay, so a second run changes nothing.
type Tag struct{ Stores storage.Stores }

// Run tags the file.
func (s *Tag) Run(ctx context.Context, in *workflow.Input) error {
	details := in.Spec.TagStepDetails
	if details == nil {
		return bad("The step has no TagStepDetails.")
	}
	if in.Source.EfsFileLocation != nil {
		return bad("Cannot tag Efs file") // AWS's own words
	}
	f, err := source(ctx, s.Stores, in)
	if err != nil {
		return err
	}
	doing := "tag " + f.Path()
	tagger, ok := f.Backend.(storage.Tagger)
	if !ok {
		return bad("Cannot " + doing + ": the storage has no tags.")
	}
	if _, err := f.unchanged(ctx); err != nil {
		return explain(err, doing)
	}
	tags := make(map[string]string, len(details.Tags))
	for _, t := range details.Tags {
		tags[t.Key] = t.Value
	}
	if err := tagger.Tag(ctx, f.Name, tags); err != nil {
		return explain(err, doing)
	}
	// "The values for the key/value pair applied as a tag to the file"
	// (https://docs.aws.amazon.com/transfer/latest/APIReference/API_ExecutionStepResult.html).
	outputs, err := json.Marshal(tags)
	in.Outputs = string(outputs)
	return err
}
